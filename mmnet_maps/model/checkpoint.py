"""A trained network on disk: weights and their specification, saved whole and loaded strictly."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import nn

from mmnet_maps.errors import OutputError, RequestError
from mmnet_maps.model.features import encoded_columns
from mmnet_maps.model.saved import SavedModel, is_pickle, read_saved
from mmnet_maps.model.spec import CARD, GOLDEN, ITEM, SPEC, WEIGHTS, ModelSpec, read_file


@dataclass(frozen=True, kw_only=True)
class Checkpoint(SavedModel):
    """A loaded model.

    Attributes
    ----------
    network
        The network with its weights, in evaluation mode, on the CPU.
    """

    network: nn.Module

    def seed(self, member: int) -> int:
        """Return the seed of a drawn member, which depends on the weights and the member's number alone."""
        return int(hashlib.sha256(f"{self.sha256} {member}".encode()).hexdigest()[:15], 16)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint folder, or a packaged model by its bare name.

    Nothing is repaired or guessed: the weights' hash, keys, shapes and types must be those that ``model.json`` states.

    Parameters
    ----------
    path
        A folder with ``model.json`` and ``weights.safetensors``, or a name such as ``mmnet-uscrn``.

    Returns
    -------
    Checkpoint

    Raises
    ------
    RequestError
        The model does not exist, or its files are damaged or do not match.
    """
    saved, weights = read_saved(path)
    try:
        state = safetensors.torch.load(weights)
    except (SafetensorError, KeyError) as error:  # KeyError: a tensor type unknown to this version
        raise RequestError(
            f"{saved.path / WEIGHTS}{is_pickle(weights)} is not a safetensors file ({error}); get the checkpoint again"
        ) from error
    network = restore(saved.spec, state, str(saved.path / WEIGHTS))
    return Checkpoint(**vars(saved), network=network)


def restore(spec: ModelSpec, state: dict[str, torch.Tensor], source: str) -> nn.Module:
    """Build a network in evaluation mode from a state dict that fits the specification in every key, shape and type.

    Parameters
    ----------
    spec
        Architecture and sizes.
    state
        Tensors by name; they are not copied.
    source
        Origin of the tensors, for messages.

    Raises
    ------
    RequestError
        A key is missing or unknown, or a tensor has another shape or type or holds NaN or infinity.
    """
    with torch.device("meta"):  # no memory, and no draw from the random generator
        network = spec.network()
    expected = network.state_dict()
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        first = f"has no {missing[0]!r}" if missing else f"holds the unknown {unknown[0]!r}"
        raise RequestError(
            f"{source} {first} ({len(missing)} missing, {len(unknown)} unknown of {len(expected)} tensors); "
            f"expected a {spec.architecture} network of this specification"
        )
    for name, tensor in expected.items():
        given = state[name]
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            raise RequestError(
                f"{source}: {name} is {_kind(given)}; expected {_kind(tensor)} for "
                f"{len(encoded_columns(spec.snapshot))} snapshot columns, {len(encoded_columns(spec.series))} series "
                f"columns and {spec.steps} steps"
            )
        if not bool(torch.isfinite(given).all()):
            raise RequestError(f"{source}: {name} holds NaN or infinite values; train or get the model again")
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def save_checkpoint(
    folder: str | Path,
    spec: ModelSpec,
    network: nn.Module,
    golden: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> Checkpoint:
    """Write a checkpoint with its STAC item, whole or not at all, and load it back.

    Parameters
    ----------
    folder
        A new or empty folder, or a checkpoint, which is replaced; its ``README.md`` is kept.
    spec
        The specification; ``weights_sha256`` is filled in.
    network
        A network of the specification's sizes; it is not changed.
    golden
        Standardised inputs (n, snapshot columns) and (n, steps, series columns), float32, kept with the outputs of
        the network in ``golden.npz`` for `check_golden`.

    Returns
    -------
    Checkpoint
        The checkpoint loaded from `folder`.

    Raises
    ------
    OutputError
        The folder holds files that are not part of a checkpoint, or cannot be written.
    RequestError
        Network and specification do not match.
    """
    from mmnet_maps.model.mlm_item import write_model_item  # not loaded where networks only compute

    folder = Path(os.path.abspath(folder))
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    trained = restore(spec, state, f"network {spec.name!r}")
    weights = safetensors.torch.save(state)
    text = spec.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()}).to_json()
    try:
        _check_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            new = Path(scratch, "new")
            new.mkdir()
            (new / WEIGHTS).write_bytes(weights)
            (new / SPEC).write_text(text, encoding="utf-8")
            if golden is not None:
                snapshot, series = (np.asarray(part, np.float32) for part in golden)
                np.savez(new / GOLDEN, snapshot=snapshot, series=series, output=_forward(trained, snapshot, series))
            if (folder / CARD).exists():
                shutil.copy2(folder / CARD, new / CARD)
            write_model_item(new)
            load_checkpoint(new)
            _swap(new, folder, Path(scratch, "old"))
    except OSError as error:
        raise OutputError(
            f"checkpoint {folder} cannot be written: {error.strerror or error}; choose a writable --out"
        ) from error
    return load_checkpoint(folder)


def check_golden(checkpoint: Checkpoint) -> float:
    """Return the largest absolute deviation of the network from the outputs that were kept when it was saved.

    Raises
    ------
    RequestError
        ``golden.npz`` is missing, damaged or of other shapes.
    """
    path = checkpoint.path / GOLDEN
    snapshot, series, output = _read_golden(path)
    try:
        estimate = _forward(checkpoint.network, snapshot, series)
    except (RuntimeError, TypeError, IndexError) as error:
        first = str(error).splitlines()[0]
        raise RequestError(f"{path} does not fit the network ({first}); get the checkpoint again") from error
    if estimate.shape != output.shape or not np.isfinite(output).all():
        raise RequestError(
            f"{path} has outputs {output.shape}; expected finite numbers {estimate.shape}; get the checkpoint again"
        )
    return float(np.abs(estimate - output).max(initial=0.0))


def read_golden(checkpoint: Checkpoint) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return the standardised inputs that were kept when a checkpoint was saved; None if it has none.

    Raises
    ------
    RequestError
        ``golden.npz`` is damaged.
    """
    path = checkpoint.path / GOLDEN
    return _read_golden(path)[:2] if path.exists() else None


def _read_golden(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    try:
        with np.load(io.BytesIO(read_file(path)), allow_pickle=False) as archive:
            return archive["snapshot"], archive["series"], archive["output"]
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RequestError(f"{path} is damaged ({error}); get the checkpoint again") from error


def _forward(network: nn.Module, snapshot: NDArray[np.float32], series: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        estimate: NDArray[np.float32] = network(torch.from_numpy(snapshot), torch.from_numpy(series)).numpy()
    return estimate


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Replace `folder` by `new`, and restore it if that fails."""
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)


def _check_replaceable(folder: Path) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise OutputError(f"{folder} is not a folder, and nothing was written; give another output")
    foreign = sorted({item.name for item in folder.iterdir()} - {WEIGHTS, SPEC, GOLDEN, CARD, ITEM})
    if foreign:
        raise OutputError(
            f"{folder} holds {foreign[0]!r}, which is not part of a checkpoint, and nothing was written; "
            "give another folder"
        )


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
