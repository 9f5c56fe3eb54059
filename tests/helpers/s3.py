"""A local S3: moto's server on the loopback interface."""

from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

BUCKET = "photos"


@contextmanager
def local_s3() -> Iterator[str]:
    """The address of a server with the empty bucket BUCKET."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    try:
        client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **KEYS)
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield address
    finally:
        server.stop()
        S3FileSystem.clear_instance_cache()  # which knows this server


KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


def s3_environment(address: str) -> dict[str, str]:
    """Variables with which fsspec finds the server."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
        **{name.upper(): value for name, value in KEYS.items()},
    }
