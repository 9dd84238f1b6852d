"""Our encoders behind timm's interface: `import vitlab.timm`, then `timm.create_model(...)`.

    import timm
    import vitlab.timm

    model = timm.create_model("vitlab_vit_small_patch16_entmax15", num_classes=10)

The names are vitlab_vit_{tiny,small,base}_patch16_{entmax15,cls_specialized,locat}. Registering
needs this import, since `import vitlab` alone loads neither torch nor timm. No weights have these
names; `vitlab.encoders.load_pretrained(path, into=model.encoder)` fills a model.

Axis letters: b images, n tokens, d channels, c classes.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from vitlab.encoders import CLSSpecialization, Locality, TokenSequence, ViT
from vitlab.encoders.locality import refined_cls
from vitlab.encoders.tokens import split_at
from vitlab.errors import InputError, did_you_mean

Pool = Literal["token", "avg", ""]
Indices = int | Sequence[int] | None
Images = Float[Tensor, "b 3 height width"]
_SIZES = {"tiny": "Ti", "small": "S", "base": "B"}
_VARIANTS: dict[str, dict[str, Any]] = {
    "entmax15": {"normalizer": "entmax15"},  # arXiv:2605.23868
    "cls_specialized": {
        "cls_specialization": CLSSpecialization(norm=1, qkv=0.334)
    },  # arXiv:2602.08626
    "locat": {"locality": Locality("gaussian", refine=True)},  # arXiv:2603.04892
}
_CONFIG = {
    "input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "first_conv": "encoder.patch_embed.proj",
    "classifier": "head",
    "license": "apache-2.0",
}


class TimmViT(nn.Module):
    """A ViT with a classifier, as timm's trainers and feature extractors expect it.

    Names of parameters have the prefix `encoder.`; the classifier is `head`.

    Args:
        encoder: any ViT; images of all sizes that its patches tile are taken.
        num_classes: outputs of the classifier; 0 for none.
        global_pool: what is classified: the [CLS] token, the mean of the patches, or all tokens.
        drop_rate: share of features dropped before the classifier in training.
    """

    def __init__(
        self,
        encoder: ViT,
        num_classes: int = 1000,
        global_pool: Pool = "token",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.encoder = encoder
        self.num_features = self.head_hidden_size = self.embed_dim = encoder.embed_dim
        self.num_prefix_tokens = 1 + encoder.config["num_registers"]
        shape = {"num_chs": encoder.embed_dim, "reduction": encoder.patch_size}
        self.feature_info = [
            {"module": f"encoder.blocks.{i}", **shape} for i in range(len(encoder.blocks))
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def forward(self, x: Images) -> Float[Tensor, "b ..."]:
        """Return logits; features without a classifier."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Images) -> Float[Tensor, "b n d"]:
        """Return [CLS], registers and patches after the final norm, before patch refinement."""
        for state in self.encoder.walk(x):  # noqa: B007
            pass
        return self._norm(state)

    def forward_head(
        self, x: Float[Tensor, "b n d"], pre_logits: bool = False
    ) -> Float[Tensor, "b ..."]:
        """Return logits of tokens, or what the classifier would get."""
        if self.global_pool == "token" and self.encoder.refine:
            x = refined_cls(x, self.encoder.num_heads)
        elif self.global_pool == "token":
            x = split_at(x, 1)[0].flatten(1)
        elif self.global_pool == "avg":
            x = split_at(x, self.num_prefix_tokens)[1].mean(dim=1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Images,
        indices: Indices = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the final tokens (b, n, d) and features after several blocks, as timm's own ViT.

        `indices` are blocks; the last n for a number, all for None. `intermediates_only` leaves the
        final tokens out.

        Raises:
            InputError: a block or format does not exist.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise InputError(f"output_fmt {output_fmt!r}: give NCHW or NLC", field="output_fmt")
        take, maps = self.block_numbers(indices), []
        for block, state in enumerate(self.encoder.walk(x), start=-1):
            if block in take:
                each = TokenSequence(self._norm(state) if norm else state.x, state.grid).tokens()
                patches = each.map if output_fmt == "NCHW" else each.patches
                prefix = torch.cat([each.cls[:, None], each.registers], dim=1)
                maps.append((patches, prefix) if return_prefix_tokens else patches)
            if stop_early and intermediates_only and block == max(take):
                break
        return maps if intermediates_only else (self._norm(state), maps)

    def _norm(self, state: TokenSequence) -> Tensor:
        return self.encoder.route("norm", state.x)

    def block_numbers(self, indices: Indices) -> list[int]:
        """Return the numbers of blocks: all for None, the last n for a number n."""
        blocks = range(len(self.encoder.blocks))
        if isinstance(indices, int):
            indices = range(-indices, 0)
        try:
            return [blocks[i] for i in (blocks if indices is None else indices)]
        except IndexError:
            raise InputError(
                f"blocks {indices} are not blocks of an encoder of {len(blocks)}; give numbers "
                f"from 0 to {blocks[-1]}",
                field="indices",
            ) from None

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the blocks after the last one of `indices`; return the numbers of these."""
        taken = self.block_numbers(indices)
        self.encoder.blocks = self.encoder.blocks[: max(taken) + 1]
        if prune_norm:
            self.encoder.register_module("norm", nn.Identity())
            if hasattr(self.encoder, "norm_cls"):
                del self.encoder.norm_cls
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one.

        Raises:
            InputError: the pooling is unknown.
        """
        if global_pool not in (None, *get_args(Pool)):
            raise InputError(
                f"global_pool {global_pool!r}: give token, avg or ''", field="global_pool"
            )
        if global_pool is not None:
            self.global_pool = global_pool
        self.num_classes = num_classes
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()
        self.head.to(self.encoder.cls_token.device).train(self.training)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of parameter names by depth, for layer-wise learning rates."""
        stem = r"^encoder\.(?:cls_token|reg_token|pos_embed|patch_embed)"
        return {
            "stem": stem,
            "blocks": [(r"^encoder\.blocks\.(\d+)", None), (r"^encoder\.norm", (99999,))],
        }

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that stay out of weight decay."""
        return {f"encoder.{name}" for name in ("pos_embed", "cls_token", "reg_token")}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refuse gradient checkpointing, which is not available."""
        if enable:
            raise InputError(
                "gradient checkpointing is not available; use smaller micro-batches",
                field="set_grad_checkpointing",
            )


def _build(
    num_classes: int = 1000,
    global_pool: Pool = "token",
    in_chans: int = 3,
    img_size: int | tuple[int, int] = 224,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    dynamic_img_size: bool = True,
    **options: Any,
) -> TimmViT:
    known = [*inspect.signature(_build).parameters, *inspect.signature(ViT).parameters]
    if wrong := [name for name in options if name not in known]:
        raise InputError(
            f"these models have no option {', '.join(wrong)}; {did_you_mean(wrong[0], known)}They "
            f"take {', '.join(sorted({*known} - {'options'}))}",
            field=wrong[0],
        )
    if not dynamic_img_size:
        raise InputError(
            "dynamic_img_size False has no effect: images of all sizes that the patches tile are "
            "taken; leave it out",
            field="dynamic_img_size",
        )
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if height != width or in_chans != 3:
        raise InputError(
            f"img_size {img_size} and in_chans {in_chans} cannot be built; the encoder is for "
            "square images of 3 channels, and takes images of other sizes as they come",
            field="img_size",
        )
    options |= {"img_size": height, "drop_path": drop_path_rate, "pos_interpolation": "antialias"}
    return TimmViT(ViT(**options), num_classes, global_pool, drop_rate)


def _entry(size: str, variant: str) -> Callable[..., nn.Module]:
    name = f"vitlab_vit_{size}_patch16_{variant}"

    def entry(pretrained: bool = False, **options: Any) -> nn.Module:
        arguments = {"size": _SIZES[size], **_VARIANTS[variant], **options}
        features = {"out_indices": arguments.pop("out_indices", 3), "feature_cls": "getter"}
        return build_model_with_cfg(_build, name, pretrained, feature_cfg=features, **arguments)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"ViT of size {size} with patches of 16 pixels and the option {variant}."
    return entry


_ENTRIES = [_entry(size, variant) for size in _SIZES for variant in _VARIANTS]
default_cfgs = generate_default_cfgs({entry.__name__: dict(_CONFIG) for entry in _ENTRIES})
for _each in _ENTRIES:
    register_model(_each)
