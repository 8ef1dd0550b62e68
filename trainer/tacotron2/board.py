"""What a training shows in TensorBoard: scalars, the network's graph, images of alignments and mels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import Unavailable
from .evaluation import Judgement
from .machine import Told
from .settings import Board

COLOURS = torch.tensor([[0.0, 0.0, 0.1], [0.3, 0.0, 0.45], [0.75, 0.2, 0.3], [0.98, 0.6, 0.1], [1.0, 1.0, 0.75]])


class EventFiles:
    """The event files of one run; without tensorboard it says so once and does nothing."""

    def __init__(self, board: Board, run: str, told: Told) -> None:
        self._board, self._writer = board, None
        if board.folder is None:
            return
        try:
            self._writer = writer(Path(board.folder) / run.replace("/", "~"))
        except Unavailable as error:
            told(str(error))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point a series."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def graph(self, model: nn.Module) -> None:
        """The network's layers and how they hold each other."""
        if self._writer is not None and self._board.graph:
            self._writer._get_file_writer().add_graph(layer_graph(model))

    def judgement(self, one: Judgement, step: int) -> None:
        """The alignment of one held-out utterance, and its mel beside the model's."""
        if self._writer is not None and self._board.images:
            true, made = one.mels
            self._writer.add_image("alignment", picture(one.attention.t(), 4), step)
            self._writer.add_image("mel", torch.cat((picture(true.t(), 2), picture(made.t(), 2)), 1), step)

    def close(self) -> None:
        """Everything is in the files on return."""
        if self._writer is not None:
            self._writer.close()


def writer(folder: Path) -> Any:
    """A SummaryWriter into `folder`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise Unavailable(
            "monitoring.platforms.tensorboard needs tensorboard, which is not installed: no event files",
            'install it: pip install "smart-tuner[tacotron2]"',
        ) from None
    return SummaryWriter(str(folder), flush_secs=10)


def layer_graph(model: nn.Module) -> tuple[Any, Any]:
    """A GraphDef (and an empty RunMetadata) of the layers in the order in which they were made. Tracing would lose the
    attention loop's inside."""
    from tensorboard.compat.proto.attr_value_pb2 import AttrValue
    from tensorboard.compat.proto.config_pb2 import RunMetadata
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.node_def_pb2 import NodeDef

    nodes, before = [NodeDef(name="tokens", op="Placeholder")], "tokens"
    for name, layer in model.named_modules():
        if name and not list(layer.children()):
            size = sum(one.numel() for one in layer.parameters())
            about = {"about": AttrValue(s=repr(layer).encode()), "parameters": AttrValue(i=size)}
            nodes.append(NodeDef(name=name.replace(".", "/"), op=type(layer).__name__, input=[before], attr=about))
            before = nodes[-1].name
    return GraphDef(node=nodes), RunMetadata()


def picture(values: Tensor, scale: int = 1) -> Tensor:
    """(rows, columns) to an RGB image (3, rows · scale, columns · scale) in 0..1, the first row at the bottom."""
    low, high = values.min(), values.max()
    shade = ((values - low) / (high - low).clamp_min(1e-8)).flip(0) * (len(COLOURS) - 1)
    left = shade.floor().long().clamp(0, len(COLOURS) - 2)
    share = (shade - left).unsqueeze(2)
    image = (COLOURS[left] * (1 - share) + COLOURS[left + 1] * share).permute(2, 0, 1)
    return image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def save_picture(image: Tensor, path: Path) -> None:
    """A PNG file of an RGB image (3, H, W) in 0..1."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    _, height, width = image.shape
    rows = (image * 255).round().to(torch.uint8).permute(1, 2, 0).reshape(height, width * 3)
    raw = b"".join(b"\x00" + row.numpy().tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b""))
