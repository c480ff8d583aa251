"""Tiny random models of images and text with their processors, and drawn images; all made in memory."""

from __future__ import annotations

import functools

import numpy as np
import transformers
from conftest import SENTENCES
from PIL import Image

import gfo
from gfo.testing.tiny import draw_weights, token_ids, train_tokenizer

SIGNS = [
    *("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<video>"),
    *(f"<row_{i}_col_{j}>" for i in range(1, 4) for j in range(1, 4)),
    *("<img>", "</img>", "<IMG_CONTEXT>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    *("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE", "TILE_GLOBAL"),
]
SIDE = 28  # pixels of a tower's image, in patches of 7
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    **token_ids(),
}
TOWER = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 7,
}
SIZE = {"height": SIDE, "width": SIDE}
CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}SIGN{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def _clip(family, tokenizer, **more):
    """LLaVA's kin: CLIP, or another tower, and a LLaMA."""
    config = {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {"model_type": "clip_vision_model", **TOWER},
        "vision_feature_layer": -1,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        **more,
    }
    options = {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return config, "<image>", options


def _llava(tokenizer):
    image = transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIZE)
    return (*_clip("llava", tokenizer), transformers.LlavaProcessor, image)


def _vipllava(tokenizer):
    image = transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIZE)
    config, sign, options = _clip("vipllava", tokenizer, vision_feature_layer=[-1, -2])
    return config, sign, options, transformers.LlavaProcessor, image


def _llava_next(tokenizer):
    grid = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    image = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=SIZE, image_grid_pinpoints=grid
    )
    config, sign, options = _clip("llava_next", tokenizer, image_grid_pinpoints=grid)
    return config, sign, options, transformers.LlavaNextProcessor, image


def _idefics3(tokenizer):
    image = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
    )
    config = {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {"model_type": "idefics3_vision", **TOWER},
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": 2,
        "pad_token_id": 0,
    }
    return config, "<image>", {"image_seq_len": 4}, transformers.Idefics3Processor, image


def _aya_vision(tokenizer):
    image = transformers.GotOcr2ImageProcessorPil(size=SIZE, crop_to_patches=True, max_patches=3)
    config = {
        "text_config": {"model_type": "cohere2", **TEXT, "sliding_window": 6},
        "vision_config": {"model_type": "siglip_vision_model", **TOWER, "vision_use_head": False},
        "image_token_index": tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        "downsample_factor": 2,
    }
    options = {"patch_size": 7, "img_size": SIDE, "downsample_factor": 2}
    return config, "<image>", options, transformers.AyaVisionProcessor, image


def _smolvlm(tokenizer):
    config, sign, _, _, _ = _idefics3(tokenizer)
    image = transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, return_row_col_info=True
    )
    config["vision_config"]["model_type"] = "smolvlm_vision"
    tokens = {
        "image_seq_len": 4,
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "replace": transformers.SmolVLMProcessor.replace_image_token,
        "nested": True,
    }
    return config, sign, {"image_token": sign, **tokens}, WithoutVideos, image


def _internvl(tokenizer):
    image = transformers.GotOcr2ImageProcessorPil(size=SIZE, crop_to_patches=True, max_patches=3)
    sizes = {"image_size": [SIDE] * 2, "patch_size": [7] * 2}
    config = {
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {"model_type": "internvl_vision", **TOWER, **sizes},
        "image_token_id": tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        "image_seq_length": 4,
    }
    tokens = {
        "image_token": "<IMG_CONTEXT>",
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "image_seq_length": 4,
        "replace": transformers.InternVLProcessor.replace_image_token,
    }
    return config, "<IMG_CONTEXT>", tokens, WithoutVideos, image


def _mistral3(tokenizer):
    image = transformers.PixtralImageProcessorPil(
        size={"longest_edge": 2 * SIDE}, patch_size={"height": 14, "width": 14}
    )
    config = {
        "text_config": {"model_type": "mistral", **TEXT, "sliding_window": None},
        "vision_config": {"model_type": "pixtral", **TOWER, "image_size": 2 * SIDE, "head_dim": 12},
        "image_token_index": tokenizer.convert_tokens_to_ids("[IMG]"),
        "spatial_merge_size": 2,
        "vision_feature_layer": -1,
    }

    def rows(self, inputs, i):
        height, width = (int(n) // 14 for n in inputs["image_sizes"][i])
        return "[IMG_BREAK]".join(["[IMG]" * width] * height) + "[IMG_END]"

    return config, "[IMG]", {"image_token": "[IMG]", "replace": rows}, WithoutVideos, image


class WithoutVideos:
    """A processor whose class in transformers needs packages for videos: its image part alone."""

    unused = ("rows", "cols", "num_patches")

    def __init__(self, image_processor, tokenizer, *, replace, nested=False, kinds=None, **tokens):
        self.image_processor, self.tokenizer, self.kinds = image_processor, tokenizer, kinds
        self.replace, self.nested = replace, nested
        vars(self).update(tokens)

    def __call__(self, text, images, return_tensors, add_special_tokens=True):
        images = images or []
        given = [images] if self.nested else images
        inputs = self.image_processor(given, return_tensors=return_tensors) if images else {}
        signs = iter([self.replace(self, inputs, i) for i in range(len(images))])
        parts = [text.split(self.image_token) for text in text]
        filled = ["".join(p if not i else next(signs) + p for i, p in enumerate(some)) for some in parts]
        ids = self.tokenizer(filled, return_tensors=return_tensors, add_special_tokens=add_special_tokens)
        if self.kinds:  # the name, and the token whose kind is 1
            ids[self.kinds[0]] = (ids["input_ids"] == self.kinds[1]).long()
        return {**ids, **{name: value for name, value in inputs.items() if name not in self.unused}}


def _qwen(tokenizer, family, image, **tower):
    """Qwen's with positions of three axes; templates write the signs around an image."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    config = {
        "text_config": {"model_type": f"{family}_text", **TEXT, "head_dim": 8, "rope_parameters": rope},
        "vision_config": {"depth": 2, "num_heads": 2, "patch_size": 7, **tower},
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<img>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("</img>"),
    }

    def sign(self, inputs, i):
        return "<image>" * int(inputs["image_grid_thw"][i].prod() // 4)

    kinds = "mm_token_type_ids", config["image_token_id"]
    return (
        config,
        "<image>",
        {"image_token": "<image>", "replace": sign, "kinds": kinds},
        WithoutVideos,
        image,
    )


def _qwen_image():
    return transformers.Qwen2VLImageProcessorPil(
        size={"shortest_edge": SIDE**2, "longest_edge": 4 * SIDE**2}, patch_size=7
    )


def _qwen2_vl(tokenizer):
    return _qwen(tokenizer, "qwen2_vl", _qwen_image(), embed_dim=24, hidden_size=32)


def _qwen2_5_vl(tokenizer):
    sizes = {"hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32, "fullatt_block_indexes": [1]}
    return _qwen(tokenizer, "qwen2_5_vl", _qwen_image(), window_size=28, **sizes)


def _qwen3_vl(tokenizer):
    sizes = {"hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32}
    more = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    return _qwen(tokenizer, "qwen3_vl", _qwen_image(), **sizes, **more)


def _siglip(tokenizer, text, sign, kind, **more):
    """Kin of Gemma: a SigLIP tower, whose tokens see each other in the text model."""
    place = tokenizer.convert_tokens_to_ids("<image>")
    config = {
        "text_config": {"model_type": text, **TEXT, "head_dim": 8},
        "vision_config": {"model_type": "siglip_vision_model", **TOWER, "vision_use_head": False},
        "image_token_index": place,
        **more,
    }
    kinds = "token_type_ids", place if kind else -1
    tokens = {"image_token": sign, "kinds": kinds}
    return config, sign, tokens, WithoutVideos, transformers.SiglipImageProcessorPil(size=SIZE)


def _gemma3(tokenizer):
    parts = _siglip(tokenizer, "gemma3_text", "<img>", True, mm_tokens_per_image=4)
    parts[0]["text_config"] |= {
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }
    parts[0]["text_config"] |= {"num_hidden_layers": 4}
    parts[2]["replace"] = lambda self, inputs, i: "\n\n<img>" + "<image>" * 4 + "</img>\n\n"
    return parts


def _paligemma(tokenizer):
    parts = _siglip(tokenizer, "gemma", "<image>", False, projection_dim=32)
    parts[2]["replace"] = lambda self, inputs, i: "<image>" * 16
    return parts


# family -> what it is made of
FAMILIES = {
    "llava": _llava,
    "vipllava": _vipllava,
    "llava_next": _llava_next,
    "idefics3": _idefics3,
    "aya_vision": _aya_vision,
    "smolvlm": _smolvlm,
    "internvl": _internvl,
    "mistral3": _mistral3,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
}


def _qwen3_5(tokenizer):
    parts = _qwen3_vl(tokenizer)
    kinds = ["linear_attention", "full_attention"]
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    sizes = {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    text = {"model_type": "qwen3_5_text", "layer_types": kinds, "num_hidden_layers": 2, **heads, **sizes}
    parts[0]["text_config"] |= text
    del parts[0]["vision_config"]["deepstack_visual_indexes"]
    return parts


OTHERS = {"qwen3_5": _qwen3_5}  # families whose text model takes images otherwise, in rows that run whole
AROUND = dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), ("<img>", "</img>"))


@functools.cache
def make_parts(family, seed=0):
    """The module and its processor."""
    tokenizer = train_tokenizer(SENTENCES * 2, 200, every_byte=False)
    tokenizer.add_special_tokens({"additional_special_tokens": SIGNS})
    config, sign, options, kind, image = (FAMILIES | OTHERS)[family](tokenizer)
    config["text_config"]["vocab_size"] = len(tokenizer) + 3
    config_class = transformers.CONFIG_MAPPING[family]
    module = transformers.AutoModelForImageTextToText.from_config(config_class(**config))
    draw_weights(module, seed)
    tokenizer.chat_template = CHAT.replace("SIGN", sign)
    return module.eval(), kind(image_processor=image, tokenizer=tokenizer, **options)


@functools.cache
def make_model(family):
    """Frozen, and the warnings are the test's."""
    return gfo.freeze(*make_parts(family), f"tiny-{family}")


def draw(seed, width=40, height=30):
    """A picture of random blots."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)
