"""Where a training computes: device, ranks, precision, memory, as the configuration says and the machine can."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from ...core.errors import ConfigError
from .settings import Precision, Resources

Told = Callable[[str], None]
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # rank 0 may synthesise and measure meanwhile


@dataclass(frozen=True)
class Machine:
    """This process's device and place among `world` ranks."""

    device: torch.device
    precision: Precision
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank logs, saves and speaks."""
        return self.rank == 0

    def casting(self) -> AbstractContextManager[Any]:
        """Mixed precision, where it is wanted."""
        kind = getattr(torch, self.precision)
        context: AbstractContextManager[Any] = torch.autocast(self.device.type, kind, enabled=self.precision != "float32")
        return context

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps float16's gradients from vanishing; does nothing for the other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")

    def summed(self, numbers: Iterable[float]) -> list[float]:
        """Sums over all ranks."""
        values = list(numbers)
        if self.world == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return [float(one) for one in total.tolist()]


def processes(resources: Resources, environ: Mapping[str, str], gpus: int, told: Told) -> int:
    """How many ranks to start here: 1 means that this process is enough, or is one of them already."""
    if "RANK" in environ or "MASTER_ADDR" in environ or resources.world_size == 1:
        return 1
    if resources.backend != "nccl":
        return resources.world_size
    count = max(1, min(resources.world_size, resources.max_gpus, gpus))
    if count < resources.world_size:
        told(
            f"world_size is {resources.world_size}, max_gpus {resources.max_gpus}, and this machine has {gpus} GPUs: "
            f"training with {count} process{'es' if count > 1 else ''}"
        )
    return count


def joined(resources: Resources, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that torchrun would set, from `rank` and `world_size`, where only a MASTER_ADDR is given."""
    if "RANK" in environ or "MASTER_ADDR" not in environ:
        return {}
    return {"RANK": str(resources.rank), "WORLD_SIZE": str(resources.world_size)}


def machine(resources: Resources, environ: Mapping[str, str], told: Told) -> Machine:
    """Joins the ranks, as the variables of torchrun or of `joined` say, and takes a device."""
    rank, world = int(environ.get("RANK", 0)), int(environ.get("WORLD_SIZE", 1))
    gpus = min(torch.cuda.device_count(), resources.max_gpus) if torch.cuda.is_available() else 0
    device = torch.device("cuda", int(environ.get("LOCAL_RANK", rank)) % gpus) if gpus else torch.device("cpu")
    speaks = told if rank == 0 else _silent
    if world > 1:
        _join(resources, rank, world, device, speaks)
    if device.type == "cuda":
        prepare_memory(resources, device, torch.cuda)
    return Machine(device, precision_of(resources, device, speaks), rank, world)


def _join(resources: Resources, rank: int, world: int, device: torch.device, told: Told) -> None:
    backend = resources.backend
    if backend == "nccl" and device.type == "cpu":
        told("backend nccl needs GPUs and there are none: gloo is taken")
        backend = "gloo"
    if backend == "mpi" and not distributed.is_mpi_available():
        raise ConfigError("backend mpi is not in this build of torch", "write backend: gloo, or nccl on GPUs")
    if not distributed.is_initialized():
        distributed.init_process_group(backend, rank=rank, world_size=world, timeout=COLLECTIVE_TIMEOUT)


def leave(machine: Machine) -> None:
    """Leaves the ranks."""
    if machine.world > 1 and distributed.is_initialized():
        distributed.destroy_process_group()


def prepare_memory(resources: Resources, device: torch.device, cuda: Any) -> None:
    """memory_fraction is a bound; without allow_growth that much is taken at once and kept by torch's allocator."""
    cuda.set_device(device)
    cuda.set_per_process_memory_fraction(resources.memory_fraction, device)
    if not resources.allow_growth:
        free, total = cuda.mem_get_info(device)
        wanted = int(min(free, total * resources.memory_fraction) * 0.95)
        del_later = torch.empty(wanted, dtype=torch.uint8, device=device)
        del del_later


def precision_of(resources: Resources, device: torch.device, told: Told) -> Precision:
    """bfloat16 where the device is made for it, else float16 on GPUs; a CPU without bfloat16 products stays with float32."""
    if not resources.mixed_precision:
        return "float32"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16"
        if resources.cpu_offload:
            told("cpu_offload and float16's scaler do not go together: computing in float32")
            return "float32"
        return "float16"
    if cpu_multiplies_bfloat16(Path("/proc/cpuinfo")):
        return "bfloat16"
    told("mixed_precision: this CPU has no bfloat16 products: computing in float32")
    return "float32"


def cpu_multiplies_bfloat16(about: Path) -> bool:
    """Whether the processor has them (AMX or AVX-512 BF16)."""
    try:
        flags = next((line for line in about.read_text().splitlines() if line.startswith("flags")), "")
    except OSError:
        return False
    return any(flag in flags.split() for flag in ("avx512_bf16", "amx_bf16"))


def optimizer_of(parameters: Iterable[Tensor], rate: float, decay: float, offload: bool) -> torch.optim.Optimizer:
    """Adam. `offload` keeps its two moments a weight in the host's memory and steps there."""
    mine = list(parameters)
    if not offload:
        return torch.optim.Adam(mine, lr=rate, weight_decay=decay, fused=True)
    there = [torch.nn.Parameter(one.detach().to("cpu", copy=True)) for one in mine]
    optimizer = torch.optim.Adam(there, lr=rate, weight_decay=decay, fused=True)

    def fetch(*_: Any) -> None:
        for host, own in zip(there, mine, strict=True):
            host.data.copy_(own.data)  # somebody may have put other weights into the model since
            host.grad = None if own.grad is None else own.grad.to("cpu", copy=True)

    def put_back(*_: Any) -> None:
        for host, own in zip(there, mine, strict=True):
            own.data.copy_(host.data)

    optimizer.register_step_pre_hook(fetch)
    optimizer.register_step_post_hook(put_back)
    return optimizer


def _silent(text: str) -> None:
    """What the other ranks say."""
