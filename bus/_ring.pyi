from typing import Any

FORM: int

class Ring:
    _head: int
    _busy: bool
    _owing: bool
    _limit: int
    _open: bool
    _parts: tuple[Any, ...]
    _shift: int
    next_position: int
    def _map(self, memory: memoryview, head_at: int, armed_at: int, control_at: int, ring_at: int, /) -> None: ...
    def _unmap(self) -> None: ...

def send_byte(fd: int, /) -> bool: ...
