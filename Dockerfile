# The server of `trifocal serve`, without torch; docs/serve.md describes it.
FROM python:3.13-slim AS build
COPY pyproject.toml README.md LICENSE /source/
COPY trifocal /source/trifocal
RUN python -m venv /opt/trifocal && /opt/trifocal/bin/pip install --no-cache-dir "/source[web]"

FROM python:3.13-slim
COPY --from=build /opt/trifocal /opt/trifocal
RUN useradd --system --no-create-home trifocal
USER trifocal
ENV PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["/opt/trifocal/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["/opt/trifocal/bin/trifocal", "serve", "--host", "0.0.0.0", "--port", "8000"]
