"""What Winograd's convolutions do to squares of pixels, as compiled loops: to the products and back, and to the gradients'."""

import numpy as np

from almanac.nn.compiled import compiled


@compiled
def take(pixels: np.ndarray, squares: np.ndarray, start: int, first: int, last: int) -> None:
    """Bᵀ d B of the 4 × 4 pixels d around each square of 2 × 2 (paper, eq. 7), zeros beyond the edges.

    Args:
        pixels: float32, batch × height × row × channels.
        squares: float32, 16 × squares × channels, those of line `start` first; written to.
        start: see above.
        first: line of squares, lines of all pictures counted through.
        last: the one after the last.
    """
    _, height, row, channels = pixels.shape
    down, across = (height + 1) // 2, (row + 1) // 2
    nothing, half = np.zeros(channels, np.float32), np.empty((4, 4, channels), np.float32)
    for line in range(first, last):
        picture, top = pixels[line // down], 2 * (line % down) - 1
        for x in range(across):
            for column in range(4):
                at = 2 * x - 1 + column
                inside = 0 <= at < row
                d0 = picture[top, at] if inside and top >= 0 else nothing
                d1 = picture[top + 1, at] if inside else nothing
                d2 = picture[top + 2, at] if inside and top + 2 < height else nothing
                d3 = picture[top + 3, at] if inside and top + 3 < height else nothing
                for i in range(channels):
                    a, b, c, d = d0[i], d1[i], d2[i], d3[i]
                    half[0, column, i] = a - c
                    half[1, column, i] = b + c
                    half[2, column, i] = c - b
                    half[3, column, i] = b - d
            place = (line - start) * across + x
            for k in range(4):
                h0, h1, h2, h3 = half[k, 0], half[k, 1], half[k, 2], half[k, 3]
                s0, s1, s2, s3 = (squares[4 * k, place], squares[4 * k + 1, place], squares[4 * k + 2, place],
                                  squares[4 * k + 3, place])  # fmt: skip
                for i in range(channels):
                    a, b, c, d = h0[i], h1[i], h2[i], h3[i]
                    s0[i] = a - c
                    s1[i] = b + c
                    s2[i] = c - b
                    s3[i] = b - d


@compiled
def put(pixels: np.ndarray, products: np.ndarray, start: int, first: int, last: int, bias: np.ndarray) -> None:
    """Aᵀ m A + bias: the 2 × 2 outputs of each square of products m (paper, eq. 7).

    Args:
        pixels: float32, batch × height × row × channels; written to.
        products: float32, 16 × squares × channels, those of line `start` first.
        start: see above.
        first: line of squares, lines of all pictures counted through.
        last: the one after the last.
        bias: float32, of each channel.
    """
    _, height, row, channels = pixels.shape
    down, across = (height + 1) // 2, (row + 1) // 2
    half = np.empty((2, 4, channels), np.float32)
    for line in range(first, last):
        picture, top = pixels[line // down], 2 * (line % down)
        for x in range(across):
            place = (line - start) * across + x
            for k in range(4):
                m0, m1, m2, m3 = (
                    products[k, place],
                    products[4 + k, place],
                    products[8 + k, place],
                    products[12 + k, place],
                )
                for i in range(channels):
                    a, b, c, d = m0[i], m1[i], m2[i], m3[i]
                    half[0, k, i] = a + b + c
                    half[1, k, i] = b - c - d
            for k in range(min(2, height - top)):
                h0, h1, h2, h3 = half[k, 0], half[k, 1], half[k, 2], half[k, 3]
                left = picture[top + k, 2 * x]
                for i in range(channels):
                    left[i] = h0[i] + h1[i] + h2[i] + bias[i]
                if 2 * x + 1 < row:
                    right = picture[top + k, 2 * x + 1]
                    for i in range(channels):
                        right[i] = h1[i] - h2[i] - h3[i] + bias[i]


@compiled
def spread(pixels: np.ndarray, products: np.ndarray, start: int, first: int, last: int) -> None:
    """A y Aᵀ of each square of 2 × 2 pixels y, zeros beyond the edges: the transpose of `put`, for gradients.

    Args:
        pixels: float32, batch × height × row × channels.
        products: float32, 16 × squares × channels, those of line `start` first; written to.
        start: see above.
        first: line of squares, lines of all pictures counted through.
        last: the one after the last.
    """
    _, height, row, channels = pixels.shape
    down, across = (height + 1) // 2, (row + 1) // 2
    nothing, half = np.zeros(channels, np.float32), np.empty((4, 2, channels), np.float32)
    for line in range(first, last):
        picture, top = pixels[line // down], 2 * (line % down)
        for x in range(across):
            for column in range(2):
                inside = 2 * x + column < row
                y0 = picture[top, 2 * x + column] if inside else nothing
                y1 = picture[top + 1, 2 * x + column] if inside and top + 1 < height else nothing
                for i in range(channels):
                    a, b = y0[i], y1[i]
                    half[0, column, i] = a
                    half[1, column, i] = a + b
                    half[2, column, i] = a - b
                    half[3, column, i] = -b
            place = (line - start) * across + x
            for k in range(4):
                h0, h1 = half[k, 0], half[k, 1]
                s0, s1, s2, s3 = (products[4 * k, place], products[4 * k + 1, place], products[4 * k + 2, place],
                                  products[4 * k + 3, place])  # fmt: skip
                for i in range(channels):
                    a, b = h0[i], h1[i]
                    s0[i] = a
                    s1[i] = a + b
                    s2[i] = a - b
                    s3[i] = -b
