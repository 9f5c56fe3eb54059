"""Labels of objects: those of COCO, which the bundled detector finds, and the label lists of tasks."""

from __future__ import annotations

__all__ = ["CATEGORIES", "CATEGORY_BY_NAME", "CATEGORY_BY_SYNONYM", "TASK_LABELS", "THRESHOLD"]

THRESHOLD = 0.35  # best F1 score of the bundled detector on held-out training images

# Names in captions by COCO category id (the ids have gaps). The first is COCO's own.
CATEGORIES: dict[int, tuple[str, ...]] = {
    1: ("person", "man", "woman", "boy", "girl", "child", "kid", "lady", "guy", "baby", "player", "rider", "skier",
        "surfer", "snowboarder", "skateboarder", "people", "men", "women", "children", "crowd", "toddler", "skater"),
    2: ("bicycle", "bike", "cyclist"), 3: ("car", "suv", "sedan"), 4: ("motorcycle", "motorbike", "scooter"),
    5: ("airplane", "plane", "jet", "aircraft", "airliner"), 6: ("bus",), 7: ("train", "locomotive"),
    8: ("truck", "pickup"), 9: ("boat", "ship", "sailboat", "canoe", "kayak"), 10: ("traffic light", "stoplight"),
    11: ("fire hydrant", "hydrant"), 13: ("stop sign",), 14: ("parking meter",), 15: ("bench",),
    16: ("bird", "seagull", "pigeon", "parrot", "duck"), 17: ("cat", "kitten"), 18: ("dog", "puppy"),
    19: ("horse", "pony"), 20: ("sheep", "lamb", "goat"), 21: ("cow", "cattle", "bull", "calf"), 22: ("elephant",),
    23: ("bear",), 24: ("zebra",), 25: ("giraffe",), 27: ("backpack",), 28: ("umbrella", "parasol"),
    31: ("handbag", "purse"), 32: ("tie", "necktie"), 33: ("suitcase", "luggage"), 34: ("frisbee",), 35: ("skis", "ski"),
    36: ("snowboard",), 37: ("sports ball", "ball", "soccer ball", "baseball", "basketball"), 38: ("kite",),
    39: ("baseball bat", "bat"), 40: ("baseball glove", "glove", "mitt"), 41: ("skateboard",), 42: ("surfboard",),
    43: ("tennis racket", "racket", "racquet"), 44: ("bottle",), 46: ("wine glass",), 47: ("cup", "mug"), 48: ("fork",),
    49: ("knife",), 50: ("spoon",), 51: ("bowl",), 52: ("banana",), 53: ("apple",), 54: ("sandwich", "burger"),
    55: ("orange",), 56: ("broccoli",), 57: ("carrot",), 58: ("hot dog", "hotdog"), 59: ("pizza",),
    60: ("donut", "doughnut"), 61: ("cake", "cupcake"), 62: ("chair",), 63: ("couch", "sofa"),
    64: ("potted plant", "plant", "flower pot"), 65: ("bed",), 67: ("dining table", "table"), 70: ("toilet",),
    72: ("tv", "television", "monitor", "screen"), 73: ("laptop",), 74: ("mouse",), 75: ("remote", "controller"),
    76: ("keyboard",), 77: ("cell phone", "phone", "cellphone"), 78: ("microwave",), 79: ("oven", "stove"),
    80: ("toaster",), 81: ("sink",), 82: ("refrigerator", "fridge"), 84: ("book",), 85: ("clock",), 86: ("vase",),
    87: ("scissors",), 88: ("teddy bear", "teddy"), 89: ("hair drier", "hair dryer"), 90: ("toothbrush",),
}  # fmt: skip
CATEGORY_BY_NAME = {names[0]: number for number, names in CATEGORIES.items()}
CATEGORY_BY_SYNONYM = {name: number for number, names in CATEGORIES.items() for name in names}


def split(text: str) -> tuple[str, ...]:
    return tuple(label.strip() for label in text.split(","))


# Written for the prompt in docs/components.md (after DISCOVER, algorithm 1).
OBJECTS = split(
    "alarm clock, ambulance, axe, balloon, barrel, basket, bathtub, billboard, blanket, briefcase, bucket, cabinet, "
    "camera, candle, cart, ceiling fan, computer, curtain, deer, door, drum, flag, flower, fountain, fox, glasses, "
    "guitar, hammer, hat, helicopter, helmet, jar, kettle, ladder, lamp, lantern, mailbox, microphone, mirror, monkey, "
    "necklace, pan, piano, pillow, pot, printer, rabbit, radio, shoe, shovel, squirrel, statue, stroller, swan, "
    "tent, tractor, traffic sign, trash can, tricycle, van, watch, wheelchair, window"
)
REGIONS = split(
    "awning, backdrop, bathroom counter, brick wall, bridge, building, bush, cabinet, carpet, ceiling, cloth, "
    "counter, curtain, desk, dirt road, door, fence, field, floor, foliage, fruit, furniture, grass, gravel, house, "
    "light, mirror, mountain, net, pavement, pillow, platform, playing field, railing, railroad, rock, roof, rug, "
    "sand, shelf, sidewalk, snow, stairs, straw, tablecloth, tent, towel, tree, vegetable, wall, water, window blind"
)
SPECIES = split(
    "ambulance, backpacker, badger, balloon, bald eagle, bathtub, beagle, beaver, bee, beetle, bookcase, bridge, "
    "butterfly, camel, cannon, canoe, castle, chimpanzee, cliff, cobra, crab, crane, crocodile, dragonfly, duck, "
    "espresso, fire engine, flamingo, fox, frog, goldfish, goose, gorilla, guitar, hamster, harp, hen, hippopotamus, "
    "husky, jellyfish, kangaroo, koala, lemon, leopard, lighthouse, lion, lizard, lobster, mushroom, ostrich, otter, "
    "owl, palace, panda, peacock, pelican, penguin, piano, pineapple, polar bear, poodle, rabbit, retriever, rooster, "
    "schooner, shark, snail, spider, squirrel, starfish, strawberry, swan, tabby, tank, terrier, tiger, tortoise, "
    "tractor, trombone, turtle, violin, volcano, warplane, whale, wolf"
)
# Reserved words of --components.
TASK_LABELS: dict[str, tuple[str, ...]] = {
    "detection": (*CATEGORY_BY_NAME, *OBJECTS),
    "segmentation": (*CATEGORY_BY_NAME, *REGIONS),
    "classification": (*CATEGORY_BY_NAME, *SPECIES),
}
