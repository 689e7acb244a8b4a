"""Runs of a GPU's library on what lies in this process's memory: copied there, and back."""

from __future__ import annotations

from collections.abc import Sequence

from qcompile.cuda.driver import Memory, Stream
from qcompile.cuda.library import ALL, GpuLibrary


class Host:
    """A stream, and room on the GPU for all values of a part; for one thread at a time.

    Large batches are run in parts, so the room does not depend on the batch.
    """

    def __init__(self, library: GpuLibrary) -> None:
        self._library = library
        self._stream = Stream(library.context)
        self._memory: list[Memory] = []  # for each input, each output, the workspace
        self._size = 0  # samples that are there
        self._room = 0  # samples that there is memory for
        self._places: list[int] = []  # their addresses

    def run(self, inputs: Sequence[int], outputs: Sequence[int], n: int) -> None:
        """Copy n samples to the GPU, run all kernels, copy the results back.

        Args:
            inputs, outputs: addresses in this process.

        Raises:
            CudaError: there is too little memory, or a kernel failed.
        """
        shape = self._library.shape
        for start in range(0, n, shape.samples):
            size = min(n - start, shape.samples)
            self.write([x + start * b for x, b in zip(inputs, shape.inputs, strict=True)], size)
            self.launch()
            for number, (y, b) in enumerate(zip(outputs, shape.outputs, strict=True)):
                self.read(y + start * b, number, 0, size * b)
            self.wait()

    def write(self, inputs: Sequence[int], n: int) -> None:
        """Copy samples to the GPU, as many as one pass takes."""
        shape = self._library.shape
        sizes = [n * b for b in (*shape.inputs, *shape.outputs, shape.workspace)]
        if n > self._room:
            self._room = 0
            self._memory.clear()  # freed first: there may not be room for both
            self._memory += [Memory(self._library.context, size) for size in sizes]
            self._room = n
        self._size = n
        self._places = [memory.address for memory in self._memory]
        with self._library.context:
            for address, x, size in zip(self._places, inputs, sizes, strict=False):
                self._stream.write(address, x, size)

    def launch(self, only: int = ALL) -> None:
        """Run all kernels, or one, on the samples that were written."""
        first, last = len(self._library.shape.inputs), len(self._places) - 1
        inputs, outputs = self._places[:first], self._places[first:last]
        workspace, stream = self._places[last], self._stream.handle
        self._library.run(inputs, outputs, self._size, workspace, stream, only)

    def read(self, target: int, output: int, offset: int, size: int) -> None:
        """Copy bytes from an output, or from the workspace if that is -1, to an address here.

        Args:
            offset: of a sample, in the workspace.
        """
        first = len(self._library.shape.inputs)
        place = self._places[-1] if output < 0 else self._places[first + output]
        with self._library.context:
            self._stream.read(target, place + offset * self._size, size)

    def wait(self) -> None:
        """Until all is done.

        Raises:
            CudaError: something of it failed.
        """
        with self._library.context:
            self._stream.wait()
