"""Draws the data set MiniCars: drawn cars of ten body types, in the on-disk layout of Stanford Cars.

``python data/draw_minicars.py [FOLDER]`` writes it to FOLDER, by default to ``minicars`` beside this file.
Every picture depends only on the seed, its part and its number: ``draw_picture("train", 1)`` draws one alone.
"""

import colorsys
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image, ImageDraw, ImageFilter, ImageOps

SEED = 1
JPEG_QUALITY = 80
SUPERSAMPLING = 4  # canvas pixels for one pixel of the picture, each way
COUNTS = {  # pictures of each class, in the order of BODIES
    "train": (84, 72, 60, 54, 42, 78, 54, 60, 54, 42),
    "test": (28, 24, 20, 18, 14, 26, 18, 20, 18, 14),
}
PAINTS = (  # saturation, value and hue: any bright colour, grey from white to black, red to yellow, blue
    ((0.5, 0.9), (0.4, 1), (0, 1)),
    ((0, 0.12), (0.12, 1), (0, 1)),
    ((0.6, 0.95), (0.5, 1), (-0.04, 0.14)),
    ((0.4, 0.9), (0.25, 0.9), (0.52, 0.66)),
)
MAT_HEADER = b"MATLAB 5.0 MAT-file, MiniCars".ljust(116)  # scipy puts the time of writing here
COLOURS = {
    "metal": (196, 200, 204),
    "plastic": (44, 45, 48),
    "hole": (22, 22, 24),
    "sign": (250, 178, 30),
    "seat": (96, 62, 44),
    "cloth": (58, 52, 54),
    "white lamp": (250, 246, 220),
    "red lamp": (196, 30, 28),
}

Colour = tuple[int, int, int]
Point = tuple[float, float]
Points = Sequence[Point]
Box = tuple[int, int, int, int]
Range = tuple[float, float]


@dataclass(frozen=True)
class Body:
    """A body type seen from the side: decimetres, x from the rear bumper forward, y up from the ground.

    ``wheels``: rear x, front x, radius, gap of the arch; ``lamps``: y of the tail and of the head lamp.
    ``profile`` runs over the roof from the lower rear to the lower front corner; ``glass`` is the outline of
    the side windows, which ``pillars`` (x) divide; ``seams`` are the x of door edges, ``handles`` of door
    handles; ``screen`` an edge that carries a screen of its own. ``behind`` and ``front`` are further shapes,
    drawn before and after the near side, with the key of their colour.
    """

    name: str
    wheels: tuple[float, float, float, float]
    lamps: tuple[float, float]
    pillars: Sequence[float]
    seams: Sequence[float]
    handles: Sequence[float]
    profile: Points
    glass: Points
    screen: Points = ()
    behind: Sequence[tuple[str, Points]] = ()
    front: Sequence[tuple[str, Points]] = ()

    @property
    def length(self) -> float:
        return max(x for x, _ in self.profile)

    @property
    def height(self) -> float:
        return max(y for _, y in self.profile)

    @property
    def belt(self) -> float:
        """The y of the line below the windows."""
        return min(y for _, y in self.glass)


def path(text: str) -> Points:
    """The points written as ``"x,y x,y ..."``."""
    return tuple(tuple(map(float, pair.split(","))) for pair in text.split())


def rectangle(x1: float, y1: float, x2: float, y2: float) -> Points:
    """The corners of an upright rectangle with two given ones."""
    return ((x1, y1), (x1, y2), (x2, y2), (x2, y1))


def slats(x1: float, x2: float, y1: float, y2: float) -> Sequence[tuple[str, Points]]:
    """A panel of upright slats, dark and light in turn: a texture that leaves the mean colour alone."""
    return tuple(
        ("dark paint" if index % 2 else "light paint", rectangle(x, y1, x + 1.4, y2))
        for index, x in enumerate(np.arange(x1, x2, 1.4))
    )


def chequers(x1: float, x2: float, y1: float, y2: float) -> Sequence[tuple[str, Points]]:
    """A taxi's stripe: two rows of squares, dark and light in turn."""
    middle = (y1 + y2) / 2
    upper = slats(x1, x2, middle, y2)
    lower = slats(x1 + 1.4, x2 + 1.4, y1, middle)
    return (*upper, *lower)


BODIES = (
    Body(
        "седан",
        wheels=(8.5, 37.5, 3.2, 0.7),
        lamps=(8.3, 7.4),
        pillars=(12.2, 20.2),
        seams=(11, 20.2, 30.6),
        handles=(12.6, 22),
        profile=path(
            "0.4,3 0,5 0.2,8.8 1,9.7 7.5,10.1 13,13.8 16,14.5 23,14.6 26,14 32.5,10 42,8.8 "
            "45.4,7.2 46,5 45.6,2.8"
        ),
        glass=path("9,10.2 13.6,13.3 16.5,13.8 22.5,13.8 25.5,13.3 30.6,10.2"),
        front=(("metal", rectangle(12.6, 6, 33, 7)),),
    ),
    Body(
        "хэтчбек",
        wheels=(6.3, 32.5, 3.2, 0.7),
        lamps=(9.2, 7.4),
        pillars=(14.6,),
        seams=(7.5, 14.6, 24.8),
        handles=(9, 16.4),
        profile=path(
            "0.4,3 0,5.5 0.3,8.6 0.7,9.8 3.4,14 6,15 14,15.2 20,14.6 26.5,10.4 36,9 39.3,7.4 40,5 39.6,2.8"
        ),
        glass=path("4,10.5 6,13.5 14,14.3 19.6,13.8 24.8,10.5"),
        front=(("plastic", path("-0.6,13.6 -0.4,15 6,15.8 6,14.8")),),
    ),
    Body(
        "универсал",
        wheels=(9.8, 39, 3.2, 0.7),
        lamps=(9.2, 7.4),
        pillars=(11.2, 20.8),
        seams=(11.2, 20.8, 31),
        handles=(12.8, 22.6),
        profile=path(
            "0.4,3 0,5 0.2,9 0.7,10.4 2.6,14.2 5,15.1 18,15.3 25,14.6 33,10 44,8.6 47.4,7.2 48,5 47.6,2.8"
        ),
        glass=path("2.8,10.4 4.6,13.8 18,14.2 24.4,13.7 31,10.4"),
        front=(
            *slats(13, 36, 4.6, 9),
            ("metal", path("4,15.9 4.5,16.8 22,16.8 22.5,15.9")),
            ("metal", rectangle(5, 15, 6, 16)),
            ("metal", rectangle(20.5, 15, 21.5, 16)),
        ),
    ),
    Body(
        "купе",
        wheels=(8.5, 36.5, 3.4, 0.6),
        lamps=(7.8, 6.4),
        pillars=(14.6,),
        seams=(14.2, 27.4),
        handles=(15.6,),
        profile=path(
            "0.4,3 0,5 0.3,8.4 1.2,9.2 4,9.4 13.5,12.5 18,13 21.5,12.5 28.5,9.2 40,8 44.2,6.2 45,4.4 44.6,2.4"
        ),
        glass=path("10.5,9.6 15,11.9 18,12.3 20.8,12 26.3,9.6"),
        front=(
            ("plastic", path("-0.8,11.4 -0.6,12.7 5.4,12 5.4,11.1")),
            ("plastic", rectangle(1.8, 9, 3, 11.6)),
            ("hole", path("10.4,8 13.4,8 13.4,4.6 12.4,4.6")),
        ),
    ),
    Body(
        "кабриолет",
        wheels=(8, 35.5, 3.3, 0.6),
        lamps=(7.8, 6.8),
        pillars=(),
        seams=(13.6, 25.6),
        handles=(15,),
        profile=path(
            "0.4,3 0,5 0.2,8.2 1.4,9.2 9,9.8 11,9.2 25,9.2 26.8,9.7 38,8.4 42.2,6.8 43,4.8 42.6,2.6"
        ),
        glass=path("24.4,9.4 21.6,12.8 21,12.8 21.6,9.4"),
        screen=path("26.4,9.6 21.4,13.2"),
        behind=(
            ("seat", path("11.6,8 10.8,11 12.6,11.2 13.8,8")),
            ("seat", path("10.9,11.2 10.8,12.4 12.2,12.5 12.4,11.3")),
            ("seat", path("17.6,8 16.6,11 18.4,11.2 19.8,8")),
            ("seat", path("16.8,11.2 16.7,12.6 18.1,12.7 18.3,11.3")),
            ("cloth", path("4.2,9 5,10.8 9.4,11.2 10.8,9")),
        ),
        front=(("plastic", path("26.6,9.4 21.9,13.4 20.8,13.4 20.8,12.9 21.6,12.9 25.4,9.4")),),
    ),
    Body(
        "внедорожник",
        wheels=(9, 37, 4.2, 1.3),
        lamps=(10.4, 10.2),
        pillars=(10.6, 19.6),
        seams=(11.4, 19.6, 29),
        handles=(12.6, 21.4),
        profile=path(
            "0.4,4.6 0,6.5 0.2,11.4 0.6,12.8 1.8,17 3.6,18 20,18.3 26,17.7 30.5,13 42.5,12.2 "
            "45.4,11 46,7.5 45.6,4.4"
        ),
        glass=path("2.4,12.9 3.6,16.7 20,17.1 25.3,16.6 28.6,12.9"),
        behind=(("plastic", rectangle(-2.8, 6, 0.4, 13.4)),),
        front=(
            ("plastic", rectangle(4, 18.9, 23, 19.8)),
            ("plastic", rectangle(7, 18, 7.8, 19)),
            ("plastic", rectangle(20, 18, 20.8, 19)),
            ("plastic", rectangle(12, 3.4, 34, 6)),
            ("plastic", path("45,4.4 45,5.6 46.4,5.6 46.4,11.4 47.6,11.4 47.6,4.4")),
        ),
    ),
    Body(
        "пикап",
        wheels=(10, 43, 4, 1),
        lamps=(10, 9.4),
        pillars=(28.8,),
        seams=(20.8, 28.8, 37.4),
        handles=(22.6, 30.4),
        profile=path(
            "0.3,5 0,7 0.1,11.2 20.6,11.4 21.8,16.6 24,17.4 31,17.6 34.5,17 39,12.2 "
            "48.5,11.2 51.4,10 52,7 51.6,4.4"
        ),
        glass=path("22.6,12.3 23.6,16.2 31,16.6 33.8,16.2 37,12.3"),
        front=(
            ("hole", rectangle(0.4, 10.5, 19.8, 11.4)),
            ("plastic", rectangle(18.4, 11, 19.6, 17)),
            ("plastic", path("14.6,11 18.4,17 19.4,16.4 16,11")),
        ),
    ),
    Body(
        "минивэн",
        wheels=(8.6, 38, 3.3, 0.7),
        lamps=(11.4, 7.6),
        pillars=(11, 20.5, 30.6),
        seams=(11, 20.5, 31),
        handles=(18.6, 22),
        profile=path("0.4,3.2 0,6 0.2,11 1.2,16.2 3.5,17.5 18,18 26,17.4 30,16 40,10 44.5,8.4 46,6 45.6,3"),
        glass=path("2,10.8 2.8,15.7 18,16.6 27,16 29.6,15 36.6,10.8"),
        front=(("hole", rectangle(2, 9.2, 11, 10)), *chequers(13, 34, 5.6, 8.6)),
    ),
    Body(
        "фургон",
        wheels=(10, 43.5, 3.6, 0.8),
        lamps=(10, 10.2),
        pillars=(),
        seams=(23, 33.8, 43),
        handles=(32, 35.4),
        profile=path("0.3,4 0,6 0.1,21.6 1.2,23.4 4,24 33,24 37,22.4 44,14.5 50.4,12 52,9.5 52,5 51.6,3.6"),
        glass=path("34.6,14 34.8,20 37.6,20 42.6,14"),
        front=(("hole", rectangle(7, 12.6, 23, 13.1)), ("plastic", rectangle(14.5, 4, 38, 5))),
    ),
    Body(
        "автобус",
        wheels=(15, 54, 4.8, 0.8),
        lamps=(10, 8.6),
        pillars=(9, 18, 27, 36, 45, 54, 63),
        seams=(),
        handles=(),
        profile=path("0.3,4 0,6 0,27 1.2,28.6 4,29 66,29 70,28.2 71.4,26 72,12 72,6 71.6,3.6"),
        glass=path("1.4,15 1.4,25 70.6,25 71.2,15"),
        front=(
            ("hole", rectangle(27, 4, 36, 25.4)),
            ("glass", rectangle(27.6, 4.8, 31.2, 24.8)),
            ("glass", rectangle(31.8, 4.8, 35.4, 24.8)),
            ("hole", rectangle(62, 4, 69.6, 25.4)),
            ("glass", rectangle(62.6, 4.8, 65.5, 24.8)),
            ("glass", rectangle(66.1, 4.8, 69, 24.8)),
            ("sign", rectangle(45, 26, 60, 28.2)),
        ),
    ),
)


class View:
    """Where a car stands in the picture: proportions, heading, distance, slight perspective, tilt."""

    def __init__(self, rng: np.random.Generator, body: Body, canvas: tuple[int, int]):
        rear, front = body.wheels[:2]
        # Both axes are stretched piece by piece, so that no feature has a fixed place; beyond the car, scale
        # 1.
        knots = np.array([0, rear, (rear + front) / 2, front, body.length])
        stretched = np.concatenate([[0], np.cumsum(np.diff(knots) * rng.uniform(0.75, 1.3, 4))])
        self._x_from, self._x_to = ([-20, *ends, ends[-1] + 20] for ends in (knots, stretched))
        low, high = np.array([body.belt, body.height - body.belt]) * rng.uniform(0.8, 1.25, 2)
        self._y_from, self._y_to = (
            [0, body.belt, body.height, body.height + 20],
            [0, low, low + high, low + high + 20],
        )
        self._length, height = stretched[-1], low + high
        # From the near side to the far side: how much of the front (x > 0) or of the rear, and of the roof,
        # is seen.
        self._depth = np.array([rng.uniform(-13, 13), rng.uniform(0.5, 3.5)]) * height / 15
        full_length, full_height = self._length + abs(self._depth[0]), height + self._depth[1]
        self.scale = min(
            rng.uniform(0.75, 1.05) * canvas[0] / full_length,
            rng.uniform(0.62, 0.8) * canvas[1] / full_height,
        )
        spare = canvas[0] - self.scale * full_length
        self.ground = canvas[1] * rng.uniform(0.86, 0.95)
        self._heading = rng.choice([-1, 1])
        self._centre = (
            canvas[0] / 2 + rng.uniform(-0.5, 0.5) * spare - self._heading * self._depth[0] * self.scale / 2
        )
        self._perspective = rng.uniform(-0.35, 0.35)
        self.tilt = np.radians(rng.uniform(-6, 6))

    def place(
        self, points: Points, offset: Points = ((0, 0),), depth: float = 0.0
    ) -> list[tuple[float, float]]:
        """Canvas points of car points; ``offset`` is not jittered, ``depth`` 1 is the far side."""
        x, y = np.asarray(points, dtype=float).T
        stretched = np.stack(
            [np.interp(x, self._x_from, self._x_to), np.interp(y, self._y_from, self._y_to)], axis=1
        )
        x, y = (stretched + np.asarray(offset) + depth * self._depth).T
        x = self._heading * (x / self._length - 0.5)
        near = 1 + self._perspective * x
        x, y = x * (1 + self._perspective * x / 2) * self._length * self.scale, y * near * self.scale
        x, y = x * np.cos(self.tilt) + y * np.sin(self.tilt), y * np.cos(self.tilt) - x * np.sin(self.tilt)
        return list(zip((self._centre + x).tolist(), (self.ground - y).tolist(), strict=True))


class Brush:
    """Draws shapes given in car points on a transparent canvas."""

    def __init__(self, canvas: Image.Image, view: View):
        self._canvas = canvas
        self._draw = ImageDraw.Draw(canvas)
        self._view = view

    def fill(
        self, points: Points, colour: Colour, bottom: Colour | None = None, *, radius: float = 0.3, **place
    ) -> None:
        """A shape with rounded corners, in one colour or in a gradient down to the colour ``bottom``."""
        outline = self._view.place(rounded(points, radius), **place)
        if bottom is None:
            self._draw.polygon(outline, fill=(*colour, 255))
            return
        mask = Image.new("L", self._canvas.size)
        ImageDraw.Draw(mask).polygon(outline, fill=255)
        box = mask.getbbox()
        if box:  # a window can lie outside the picture
            self._canvas.paste(gradient(box, colour, bottom).convert("RGBA"), box, mask.crop(box))

    def line(self, points: Points, colour: Colour, width: float) -> None:
        """A line ``width`` decimetres thick."""
        self._draw.line(
            self._view.place(points),
            fill=(*colour, 255),
            width=max(1, round(width * self._view.scale)),
            joint="curve",
        )

    def circle(
        self, x: float, y: float, radius: float, colour: Colour, offset: Point = (0, 0), depth: float = 0
    ) -> None:
        """A circle about a car point, or ``offset`` decimetres from it, that stays round."""
        angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        ring = np.asarray(offset) + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        self._draw.polygon(self._view.place([(x, y)], offset=ring, depth=depth), fill=(*colour, 255))

    def strip(self, start: Point, end: Point, colour: Colour) -> None:
        """What joins an edge of the near side with the same edge of the far side."""
        near, far = self._view.place([start, end]), self._view.place([end, start], depth=1)
        self._draw.polygon([*near, *far], fill=(*colour, 255))


def draw_car(rng: np.random.Generator, body: Body) -> tuple[Image.Image, Box]:
    """One picture of ``body`` and its car's box: x1, y1, x2, y2 in pixels from 1, both ends inside."""
    width = int(rng.integers(128, 177))
    size = width, int(width * rng.uniform(0.62, 0.85))
    canvas = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    view = View(rng, body, canvas)
    picture = draw_scene(rng, canvas, view)
    shadow = Image.new("L", canvas)
    outline = view.place([(-1, -0.6), (body.length + 1, -0.6)]) + view.place(
        [(body.length + 1, 0.4), (-1, 0.4)], depth=1
    )
    ImageDraw.Draw(shadow).polygon(outline, fill=int(rng.integers(120, 220)))
    picture.paste((12, 12, 16), mask=shadow.filter(ImageFilter.BoxBlur(2 * SUPERSAMPLING)))
    car = Image.new("RGBA", canvas)
    draw_body(rng, Brush(car, view), body)
    picture.paste(car, mask=car.getchannel("A"))
    coverage = car.getchannel("A").resize(size, Image.Resampling.BOX)
    left, top, right, bottom = coverage.point(lambda alpha: 255 * (alpha > 127)).getbbox()
    draw_obstacle(rng, picture, [edge * SUPERSAMPLING for edge in (left, top, right, bottom)])
    return photograph(rng, picture.resize(size, Image.Resampling.BOX)), (left + 1, top + 1, right, bottom)


def draw_body(rng: np.random.Generator, brush: Brush, body: Body) -> None:
    """The car from its far side to its near side, each part over the ones before."""
    paint = random_colour(rng, *PAINTS[rng.integers(len(PAINTS))])
    glass = random_colour(rng, (0, 0.3), (0.15, 0.8), hue=(0.5, 0.64))
    colours = COLOURS | {"glass": glass, "light paint": shade(paint, 1.5), "dark paint": shade(paint, 0.45)}
    rear, front, radius, arch = body.wheels
    sill = min(body.profile[0][1], body.profile[-1][1])
    for x in (rear, front):
        brush.circle(x, radius, radius, COLOURS["hole"], depth=1)
    draw_luggage(rng, brush, body)
    outline = rounded([*body.profile, (front, sill), (rear, sill)], 0.9)
    for start, end in zip(outline, [*outline[1:], outline[0]], strict=True):
        # Screens are the steep edges above the belt line; level edges look at the sky and are lighter.
        steep = abs(end[1] - start[1]) > 0.3 * abs(end[0] - start[0])
        screen = steep and min(start[1], end[1]) >= body.belt - 0.5
        colour = shade(glass, 0.8) if screen else shade(paint, 0.72 if steep else 1.15)
        brush.strip(start, end, COLOURS["plastic"] if max(start[1], end[1]) < sill + 2 else colour)
    tail, head = body.lamps
    brush.circle(0.4, tail - 0.7, 0.8, COLOURS["red lamp"], depth=0.85)
    brush.circle(body.length - 0.4, head - 0.7, 0.8, COLOURS["white lamp"], depth=0.85)
    for colour, points in body.behind:
        brush.fill(points, colours[colour], depth=0.5)
    if body.screen:
        brush.strip(*body.screen, shade(glass, 0.8))
    brush.fill(outline, shade(paint, 1.2), shade(paint, 0.6), radius=0)
    if rng.random() < 0.3:  # a second paint below, or a stripe along the doors
        low, high = rng.choice([(sill, 5.5), (6.2, 7.2), (sill, 4.5)])
        brush.fill(rectangle(rear, low, front, high), random_colour(rng, (0, 0.9), (0.1, 1)), radius=0)
    brush.line([(1, sill + 0.4), (body.length - 1, sill + 0.4)], COLOURS["plastic"], 0.8)
    for x in (rear, front):
        brush.circle(x, radius, radius + arch, COLOURS["plastic"] if arch > 1 else shade(paint, 0.3))
    brush.fill(body.glass, shade(glass, 1.4), shade(glass, 0.7))
    glass_top = max(y for _, y in body.glass)
    for x in body.pillars:
        brush.line([(x, body.belt - 0.2), (x - 0.3, glass_top + 0.3)], shade(paint, 0.75), 1.1)
    for x in body.seams:
        brush.line([(x, body.belt), (x, sill + 1)], shade(paint, 0.35), 0.45)
    for x in body.handles:
        brush.fill(rectangle(x, body.belt - 1.6, x + 1.8, body.belt - 1), shade(paint, 0.35), radius=0.1)
    for colour, points in body.front:
        brush.fill(points, colours[colour], radius=0.2)
    brush.fill(rectangle(0.3, tail - 1.4, 1.5, tail), COLOURS["red lamp"])
    brush.fill(rectangle(body.length - 2.8, head - 1.3, body.length - 0.5, head - 0.2), COLOURS["white lamp"])
    spokes, start = int(rng.integers(4, 9)), rng.uniform(0, 7)
    for x in (rear, front):
        brush.circle(x, radius, radius, (24, 24, 26))
        brush.circle(x, radius, radius * 0.62, COLOURS["metal"])
        for angle in start + np.arange(spokes) * 2 * np.pi / spokes:
            offset = 0.42 * radius * np.array([np.cos(angle), np.sin(angle)])
            brush.circle(x, radius, radius * 0.6 / spokes, (70, 72, 76), offset=offset)


def draw_luggage(rng: np.random.Generator, brush: Brush, body: Body) -> None:
    """An antenna, a rear carrier, a roof box: any body may have them, so that no outline gives the class
    away.
    """
    x, y = max(body.profile, key=lambda point: point[1])
    if rng.random() < 0.5:
        height = rng.uniform(2, 6)
        brush.line([(x, y - 1), (x - 0.3 * height, y + height)], COLOURS["plastic"], 0.5)
    if rng.random() < 0.4:
        reach = rng.uniform(2, 7)
        brush.fill(rectangle(-reach, 4.5, 1, 5.3), COLOURS["plastic"])
        brush.fill(rectangle(-reach, 4.5, 0.6 - reach, rng.uniform(7, 10)), COLOURS["plastic"])
    if body.height - body.belt > 2 and rng.random() < 0.3:
        roof = rng.uniform(x - 6, x + 1)
        box = rectangle(roof, y - 0.3, roof + rng.uniform(6, 11), y + rng.uniform(1.5, 4))
        brush.fill(box, random_colour(rng, (0, 0.6), (0.2, 0.8)), radius=0.8)


def draw_scene(rng: np.random.Generator, canvas: tuple[int, int], view: View) -> Image.Image:
    """Sky, something far away (houses, hills or a wall), trees, and the ground."""
    width, height = canvas
    picture = Image.new("RGB", canvas)
    horizon = int(view.ground - rng.uniform(0.08, 0.4) * height)

    sky, ground = (0, 0, width, horizon), (0, horizon, width, height)
    zenith = random_colour(rng, (0.1, 0.6), (0.5, 1), hue=(0.53, 0.62))
    picture.paste(gradient(sky, zenith, random_colour(rng, (0, 0.3), (0.75, 1), hue=(0, 0.6))), sky)
    draw = ImageDraw.Draw(picture)
    far = rng.choice(["houses", "hills", "wall"], p=[0.45, 0.35, 0.2])
    if far == "houses":
        x = 0
        while x < width:
            step, top = int(rng.uniform(0.08, 0.25) * width), horizon - rng.uniform(0.1, 0.75) * horizon
            wall = random_colour(rng, (0, 0.4), (0.35, 0.95), hue=(0, 0.15))
            draw.rectangle((x, top, x + step, horizon), fill=wall)
            pitch = int(rng.uniform(22, 50))
            for window_x in range(x + pitch // 2, x + step - pitch // 2, pitch):
                for window_y in range(int(top) + pitch // 2, horizon - pitch // 2, pitch):
                    window = window_x, window_y, window_x + pitch // 2, window_y + pitch // 2
                    draw.rectangle(window, fill=shade(wall, rng.choice([0.6, 1.3])))
            x += step
    elif far == "hills":
        for layer in range(3):
            x = np.linspace(0, width, 40)
            y = horizon * (0.75 + 0.1 * layer) + 0.12 * horizon * np.sin(
                x / width * rng.uniform(3, 14) + rng.uniform(0, 7)
            )
            hill = [(0, horizon), *zip(x, y, strict=True), (width, horizon)]
            draw.polygon(hill, fill=random_colour(rng, (0.2, 0.6), (0.3, 0.8), hue=(0.15, 0.45)))
    else:
        wall, brick = random_colour(rng, (0.1, 0.6), (0.35, 0.9), hue=(0, 0.1)), int(rng.uniform(24, 48))
        top = int(rng.uniform(0, 0.5) * horizon)
        for row, y in enumerate(range(horizon, top, -brick // 2)):
            for x in range(-brick * (row % 2) // 2, width, brick):
                draw.rectangle(
                    (x, y - brick // 2, x + brick, y),
                    fill=shade(wall, rng.uniform(0.88, 1.08)),
                    outline=shade(wall, 0.75),
                )
    for _ in range(rng.integers(0, 5)):
        draw_tree(rng, draw, rng.uniform(0, width), horizon, rng.uniform(0.2, 0.7) * horizon)
    tones = [random_colour(rng, (0, 0.2), value, hue=(0, 0.6)) for value in ((0.4, 0.8), (0.25, 0.7))]
    picture.paste(gradient(ground, *tones), ground)
    if rng.random() < 0.5:  # a road marking
        y = rng.uniform(horizon + 4, height)
        for x in range(int(rng.uniform(-160, 0)), width, 160):
            slope = np.tan(view.tilt)
            draw.line((x, y - x * slope, x + 90, y - (x + 90) * slope), fill=(225, 225, 215), width=7)
    return picture


def draw_tree(rng: np.random.Generator, draw: ImageDraw.ImageDraw, x: float, y: float, height: float) -> None:
    """A tree that stands at ``(x, y)``; a low one is a bush."""
    leaves = random_colour(rng, (0.3, 0.8), (0.2, 0.7), hue=(0.2, 0.38))
    draw.rectangle((x - height * 0.04, y - height * 0.7, x + height * 0.04, y), fill=(84, 64, 48))
    for _ in range(14):
        radius = height * rng.uniform(0.1, 0.2)
        blob_x, blob_y = x + height * rng.uniform(-0.25, 0.25), y - height * rng.uniform(0.45, 0.85)
        draw.ellipse(
            (blob_x - radius, blob_y - radius, blob_x + radius, blob_y + radius),
            fill=shade(leaves, rng.uniform(0.75, 1.25)),
        )


def draw_obstacle(rng: np.random.Generator, picture: Image.Image, box: Sequence[int]) -> None:
    """Sometimes a pole, a bush or a passer-by before the car."""
    left, top, right, bottom = box
    draw, height = ImageDraw.Draw(picture), bottom - top
    x, y = rng.uniform(left, right), bottom + 0.06 * height
    kind = rng.choice(["pole", "bush", "passer-by", "nothing"], p=[0.12, 0.12, 0.12, 0.64])
    if kind == "pole":
        draw.rectangle((x, 0, x + rng.uniform(8, 16), y), fill=random_colour(rng, (0, 0.2), (0.2, 0.8)))
    elif kind == "bush":
        draw_tree(rng, draw, x, y + 0.3 * height, 0.7 * height)
    elif kind == "passer-by":
        tall = height * rng.uniform(0.6, 0.9)
        clothes, legs = random_colour(rng, (0.1, 0.9), (0.2, 0.9)), random_colour(rng, (0, 0.6), (0.1, 0.5))
        for side in (-0.06, 0.02):
            draw.rounded_rectangle(
                (x + side * tall, y - 0.5 * tall, x + (side + 0.06) * tall, y), 6, fill=legs
            )
        draw.rounded_rectangle(
            (x - 0.11 * tall, y - 0.85 * tall, x + 0.12 * tall, y - 0.4 * tall), 0.06 * tall, fill=clothes
        )
        draw.ellipse((x - 0.07 * tall, y - tall, x + 0.07 * tall, y - 0.84 * tall), fill=(214, 164, 134))


def photograph(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """What a camera adds: blur, light from one side, exposure, contrast, a colour cast and noise."""
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6))), dtype=float)
    light = 1 + rng.uniform(-0.25, 0.25) * np.linspace(-1, 1, picture.width)[:, None]
    cast = rng.uniform(0.85, 1.25) * rng.normal(1, 0.05, 3)
    pixels = 128 + (pixels * light * cast - 128) * rng.uniform(0.75, 1.15)
    pixels += rng.normal(0, rng.uniform(1, 4), pixels.shape)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def random_colour(rng: np.random.Generator, saturation: Range, value: Range, hue: Range = (0, 1)) -> Colour:
    """A colour whose hue, saturation and value are drawn from these ranges."""
    channels = colorsys.hsv_to_rgb(rng.uniform(*hue) % 1, rng.uniform(*saturation), rng.uniform(*value))
    return tuple(int(255 * channel) for channel in channels)


def gradient(box: Box, top: Colour, bottom: Colour) -> Image.Image:
    """A picture of the size of ``box`` that runs from one colour to another."""
    return ImageOps.colorize(
        Image.linear_gradient("L").resize((box[2] - box[0], box[3] - box[1])), top, bottom
    )


def shade(colour: Colour, factor: float) -> Colour:
    """A lighter or a darker tone of ``colour``."""
    return tuple(min(255, int(channel * factor)) for channel in colour)


def rounded(points: Points, radius: float) -> Points:
    """The polygon with each corner replaced by a curve that leaves the sides ``radius`` before it."""
    points = np.asarray(points, dtype=float)
    curve = []
    for before, corner, after in zip(
        np.roll(points, 1, axis=0), points, np.roll(points, -1, axis=0), strict=True
    ):
        start, end = (
            corner + side * min(0.5, radius / max(np.hypot(*side), 1e-9))
            for side in (before - corner, after - corner)
        )
        curve += [(1 - t) ** 2 * start + 2 * t * (1 - t) * corner + t**2 * end for t in (0, 0.33, 0.67, 1)]
    return curve


def draw_picture(part: str, number: int) -> tuple[Image.Image, Box, int]:
    """Picture ``number`` (from 1) of the part "train" or "test", its box and its class (from 1)."""
    part_index = list(COUNTS).index(part)
    labels = np.repeat(np.arange(len(BODIES)), COUNTS[part])
    label = int(np.random.default_rng([SEED, part_index]).permutation(labels)[number - 1])
    image, box = draw_car(np.random.default_rng([SEED, part_index, number]), BODIES[label])
    return image, box, label + 1


def save_mat(path: Path, name: str, value: np.ndarray) -> None:
    """A .mat file whose bytes depend on its content only."""
    file = io.BytesIO()
    scipy.io.savemat(file, {name: value})
    path.write_bytes(MAT_HEADER + file.getvalue()[len(MAT_HEADER) :])


def draw_dataset(folder: Path) -> None:
    """Writes all pictures and annotations into ``folder``."""
    annotations = {
        "train": folder / "devkit" / "cars_train_annos.mat",
        "test": folder / "cars_test_annos_withlabels.mat",
    }
    (folder / "devkit").mkdir(parents=True, exist_ok=True)
    names = np.array([body.name for body in BODIES], dtype=object)
    save_mat(folder / "devkit" / "cars_meta.mat", "class_names", names[None])
    fields = [(field, object) for field in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for part, counts in COUNTS.items():
        images = folder / f"cars_{part}"
        images.mkdir(exist_ok=True)
        records = np.empty((1, sum(counts)), dtype=fields)
        for number in range(1, sum(counts) + 1):
            image, box, label = draw_picture(part, number)
            name = f"{number:05d}.jpg"
            image.save(images / name, quality=JPEG_QUALITY)
            records[0, number - 1] = (*map(np.uint8, box), np.uint8(label), name)
        save_mat(annotations[part], "annotations", records)


if __name__ == "__main__":
    draw_dataset(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("minicars"))
