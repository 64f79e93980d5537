"""The names and shapes of IR backbones as AdaFace published them, written down apart from dcal_core."""

BLOCKS = {18: 8, 34: 16, 50: 24, 101: 49}
WIDER = {18: (2, 4, 6), 34: (3, 7, 13), 50: (3, 7, 21), 101: (3, 16, 46)}  # blocks with twice the channels


def batch_norm(name: str, channels: int, affine: bool = True) -> dict[str, tuple]:
    names = ["weight", "bias"] * affine + ["running_mean", "running_var"]
    return {f"{name}.{part}": (channels,) for part in names} | {f"{name}.num_batches_tracked": ()}


def published_shapes(depth: int, width: int, embedding: int, side: int) -> dict[str, tuple]:
    """Names and shapes of an IR backbone as they were published, without any prefix; side: of its last map."""
    shapes = {"input_layer.0.weight": (width, 3, 3, 3), **batch_norm("input_layer.1", width)}
    shapes["input_layer.2.weight"] = (width,)
    before = width
    for i in range(BLOCKS[depth]):
        d = width * 2 ** sum(i >= first for first in WIDER[depth])
        block = f"body.{i}.res_layer"
        if i in WIDER[depth]:
            shapes[f"body.{i}.shortcut_layer.0.weight"] = (d, before, 1, 1)
            shapes |= batch_norm(f"body.{i}.shortcut_layer.1", d)
        shapes |= batch_norm(f"{block}.0", before) | {f"{block}.1.weight": (d, before, 3, 3)}
        shapes |= batch_norm(f"{block}.2", d) | {f"{block}.3.weight": (d,), f"{block}.4.weight": (d, d, 3, 3)}
        shapes |= batch_norm(f"{block}.5", d)
        before = d
    shapes |= batch_norm("output_layer.0", before)
    shapes |= {"output_layer.3.weight": (embedding, before * side * side), "output_layer.3.bias": (embedding,)}
    return shapes | batch_norm("output_layer.4", embedding, affine=False)
