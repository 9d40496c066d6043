"""Operations on a batch of images, in which every image has its own parameters.

Images are uint8 (n, c, h, w) with one or three channels. Parameters are CPU tensors of n rows, in float64 where they
are not whole numbers: arithmetic on them is done there, and only the result goes to the images' device, without
waiting for it. Nothing here draws a number, and no result depends on which other images are in the batch.

The results are those of torchvision.transforms.v2.functional on each image alone, its oddities included:
- what is not whole after a blend is cut off, not rounded, so a fully stretched maximum may come out as 254;
- grey is floor(0.2989 R + 0.587 G + 0.114 B); the weights miss one by 0.0001, so white becomes 254;
- saturation and hue leave images of one channel alone.
Two things can differ: a grey level, where floats are added in another order (hue, bilinear warps, another device), and
in a nearest-neighbour warp the choice for a pixel that falls midway between two.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# --- parameters on the device -------------------------------------------------------------------------------------


def on_device(values: Tensor, images: Tensor) -> Tensor:
    """Put parameters where the images are. Pageable memory is read before the call returns, so this is safe."""
    return values.to(images.device, non_blocking=True)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Shape one parameter of each image as (n, 1, 1, 1) on the device, in single precision if it is a fraction."""
    values = values.float() if values.is_floating_point() else values
    return on_device(values, images)[:, None, None, None]


# --- place ----------------------------------------------------------------------------------------------------------


def crop(images: Tensor, padding: int, top: Tensor, left: Tensor, border: str = "zeros") -> Tensor:
    """Pad by `padding` on every side and cut the old size out at (top, left) of the padded image.

    border: the padding holds zeros, or ("reflect") the image as mirrored in its outermost pixels.
    """
    height, width = images.shape[-2:]
    if border == "reflect":
        rows, columns = (_mirrored(side, padding, images.device) for side in (height, width))
        padded = images[:, :, rows[:, None], columns]
    else:
        padded = F.pad(images, [padding] * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (n, c, places, places, h, w), a view
    row = torch.arange(len(images), device=images.device)
    return windows[row, :, on_device(top, images), on_device(left, images)]


def _mirrored(side: int, padding: int, device: torch.device) -> Tensor:
    """Say for each pixel of a padded side which pixel of the side it copies. Torch's own padding knows no uint8."""
    period = max(2 * (side - 1), 1)  # there and back again
    place = torch.arange(-padding, side + padding, device=device) % period
    return torch.minimum(place, period - place)


def flip(images: Tensor, chosen: Tensor, dim: int) -> Tensor:
    """Mirror the chosen images: left to right along dim -1, top to bottom along dim -2."""
    return torch.where(per_image(chosen, images), images.flip(dim), images)


def warp(images: Tensor, sources: Tensor, mode: str = "nearest") -> Tensor:
    """Take each pixel from where its image's matrix says; from outside the image comes zero.

    sources: (n, 2, 3); a row is the x (or y) of the source as (times x, times y, plus), in pixels from the centre.
    The grid is added up element by element: a matrix product would lose whole pixels of it to TF32.
    """
    height, width = images.shape[-2:]
    matrices = sources.float() / torch.tensor([[width / 2], [height / 2]])  # grid_sample counts in half sides
    of_x, of_y, plus = on_device(matrices, images)[..., None, None].unbind(2)  # each (n, 2, 1, 1)
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    grid = (x * of_x + y * of_y + plus).permute(0, 2, 3, 1)
    return F.grid_sample(images.float(), grid, mode=mode, align_corners=False).round_().to(torch.uint8)


def _sources(*entries: Tensor | float, like: Tensor) -> Tensor:
    """Build the matrices of `warp` from their six entries in reading order: numbers, or one value per image."""
    columns = [torch.as_tensor(entry, dtype=torch.float64).expand(len(like)) for entry in entries]
    return torch.stack(columns, 1).view(-1, 2, 3)


def rotate_and_shift(images: Tensor, degrees: Tensor, shift_x: Tensor, shift_y: Tensor) -> Tensor:
    """Turn clockwise about the centre, then shift right and down by pixels. Bilinear, because any angle occurs."""
    cos, sin = torch.deg2rad(degrees).cos(), torch.deg2rad(degrees).sin()
    plus_x, plus_y = -(cos * shift_x + sin * shift_y), sin * shift_x - cos * shift_y
    return warp(images, _sources(cos, sin, plus_x, -sin, cos, plus_y, like=degrees), mode="bilinear")


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn counter-clockwise about the centre; nearest neighbour, as all warps of the published policies."""
    cos, sin = torch.deg2rad(degrees).cos(), torch.deg2rad(degrees).sin()
    return warp(images, _sources(cos, -sin, 0.0, sin, cos, 0.0, like=degrees))


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """Shift right by whole pixels; a fraction is dropped."""
    return warp(images, _sources(1.0, 0.0, -pixels.trunc(), 0.0, 1.0, 0.0, like=pixels))


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Shift down by whole pixels; a fraction is dropped."""
    return warp(images, _sources(1.0, 0.0, 0.0, 0.0, 1.0, -pixels.trunc(), like=pixels))


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    """Move each row left by slope times its distance from the upper edge."""
    return warp(images, _sources(1.0, slope, slope * images.shape[-2] / 2, 0.0, 1.0, 0.0, like=slope))


def shear_y(images: Tensor, slope: Tensor) -> Tensor:
    """Move each column up by slope times its distance from the left edge."""
    return warp(images, _sources(1.0, 0.0, 0.0, slope, 1.0, slope * images.shape[-1] / 2, like=slope))


# --- colour -----------------------------------------------------------------------------------------------------------


def _to_uint8(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).to(torch.uint8)


def _blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """Compute factor * images + (1 - factor) * others. addcmul rounds as torchvision's scalar version does."""
    return _to_uint8(torch.addcmul(images * per_image(factor, images), others, per_image(1 - factor, images)))


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.split(1, dim=1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return _to_uint8(images * per_image(factor, images))


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey of the image.

    Grey levels are summed by row, and the rows in float64: no sum is rounded, so its order cannot matter.
    """
    height, width = images.shape[-2:]
    total = _grey(images).sum(3).sum((1, 2), dtype=torch.float64)
    mean = (total / (height * width)).float()
    return _blend(images, mean[:, None, None, None], factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else _blend(images, _grey(images), factor)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the colour circle by a share of it; the lightest and the darkest channel keep their values."""
    if images.shape[1] == 1:
        return images

    # The place on the circle, counted in sixths from red; chroma as HSV has it.
    low, high = images.amin(1).float(), images.amax(1).float()
    red, green, blue = images.float().unbind(1)
    chroma = high - low
    divisor = chroma.clamp(min=1)  # grey has no hue, and needs none
    sixths = torch.where(
        high == red,
        (green - blue) / divisor,
        torch.where(high == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sixths = sixths + 6 * per_image(turn, images)[:, 0]

    # The way back needs no cases: along the circle, the value of a channel is a trapezoid.
    offsets = on_device(torch.tensor([5.0, 3.0, 1.0]), images)[:, None, None]
    along = (sixths[:, None] + offsets).remainder_(6)
    away = torch.minimum(along, 4 - along).clamp_(0, 1)
    turned = torch.addcmul(high[:, None], chroma[:, None], away, value=-1)
    return _to_uint8(turned * (255.999 / 255))  # torchvision's way from [0, 1] to 0..255


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend the inside with its 3x3 blur of weights 1 around 5; the outermost pixels stay.

    The sums are whole numbers and thirteen is odd, so rounding never meets a tie and the blur is exact.
    """
    if min(images.shape[-2:]) <= 2:
        return images
    result = images.float()
    inside = result[..., 1:-1, 1:-1]
    rows = result[..., :-2, :] + result[..., 1:-1, :] + result[..., 2:, :]
    blurred = ((rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inside) / 13).round_()
    inside.addcmul_(blurred - inside, per_image(1 - factor, images))
    return _to_uint8(result)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper bits of every value."""
    return images & per_image((256 - 2 ** (8 - bits.long())).to(torch.uint8), images)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values from a threshold in 0..255 on."""
    return torch.where(images >= per_image(threshold, images), ~images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to the full range; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True).float(), images.amax((2, 3), keepdim=True).float()
    flat = low == high
    unit = torch.where(flat, 1.0, (high - low) * (1 / 255))
    return _to_uint8((images - torch.where(flat, 0.0, low)) / unit)


def equalize(images: Tensor) -> Tensor:
    """Give each channel a level histogram, by Pillow's whole-number rule; one of few values may stay as it is."""
    values = images.flatten(2).long()
    counts = torch.zeros((*values.shape[:2], 256), dtype=torch.int32, device=images.device)
    counts.scatter_add_(2, values, torch.ones((), dtype=torch.int32, device=images.device).expand_as(values))
    last = images.amax((2, 3))[..., None].long()
    step = (values.shape[2] - counts.gather(2, last)) // 255  # pixels per level, those of the lightest value aside
    below = counts.cumsum(2, dtype=torch.int32) - counts
    levels = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255).to(torch.uint8)
    equalized = levels.gather(2, values).view_as(images)
    return torch.where((step > 0)[..., None], equalized, images)


def invert(images: Tensor) -> Tensor:
    return ~images


# --- rectangles -------------------------------------------------------------------------------------------------------


def inside_boxes(images: Tensor, boxes: Tensor) -> Tensor:
    """Mark the pixels inside each image's box, as (n, 1, h, w) booleans.

    boxes: (n, 4) whole numbers top, left, bottom, right; the last two are the first row and column outside. What lies
    beyond the image is ignored.
    """
    height, width = images.shape[-2:]
    top, left, bottom, right = on_device(boxes, images)[..., None, None].unbind(1)
    row = torch.arange(height, device=images.device)[:, None]
    column = torch.arange(width, device=images.device)
    return ((top <= row) & (row < bottom) & (left <= column) & (column < right))[:, None]


def fill_boxes(images: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """Set the inside of each image's box to the colour `fill` (c,)."""
    return torch.where(inside_boxes(images, boxes), on_device(fill, images)[:, None, None], images)
