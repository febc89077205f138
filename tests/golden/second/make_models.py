#!/usr/bin/env python3
"""Writes the files of this folder: models that no file of the original implementation covers, computed by a second, plain
implementation in JAX (float64, gradients by automatic differentiation) that shares nothing with Vitrail.

    pip install jax h5py && python3 tests/golden/second/make_models.py tests/golden/second

Schema and names as in the other golden files (tests/golden/README.md). Users and tests need only the files.
"""

import json
import math
import sys
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)


def layernorm(x, p):
    mean = x.mean(-1, keepdims=True)
    y = (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-6) * p["scale"]
    return y + p["bias"] if "bias" in p else y


def mlp(x, p):
    u = x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
    h = 0.5 * u * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
    return h @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]


def attention(xq, x, p):
    q, k, v = (
        jnp.einsum("btd,dhc->bthc", y, p[name]["kernel"]) + p[name]["bias"]
        for y, name in ((xq, "query"), (x, "key"), (x, "value"))
    )
    if "query_ln" in p:
        q, k = layernorm(q, p["query_ln"]), layernorm(k, p["key_ln"])
    scores = jnp.einsum("bqhc,bkhc->bhqk", q / math.sqrt(q.shape[-1]), k)
    out = jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(scores), v)
    return jnp.einsum("bqhc,hcd->bqd", out, p["out"]["kernel"]) + p["out"]["bias"]


def capacity(c, tokens, choices, experts):
    if "capacity" in c:
        return c["capacity"]
    exact = tokens * choices * c["capacity_factor"] / experts
    slots = round(exact) if c.get("capacity_ceil_or_round", "ceil") == "round" else math.ceil(exact)
    multiple = c.get("capacity_multiple_of", 4) or 0
    return slots + (-slots) % multiple if multiple else slots


def squared_variation(v):
    return v.var() / v.mean() ** 2


def moe(x, p, config, noise, out):
    """x [G, S, D]; adds to `out` what the files show."""
    router, dispatcher, experts = config["router"], config["router"]["dispatcher"], config["num_experts"]
    choose = router.get("name") == "NoisyTopItemsPerExpertRouter"
    z = x @ p["Router"]["dense"]["kernel"]
    sigma = router["noise_std"] / experts
    clean = jax.nn.softmax(z)
    noisy = z if noise is None else z + sigma * noise
    gates = jax.nn.softmax(noisy)
    groups, tokens, _ = z.shape
    k = 1 if choose else router["num_selected_experts"]
    slots = capacity(dispatcher, tokens, k, experts)
    outputs = jax.vmap(lambda q: mlp(x, q))(p["Mlp"])  # [E, G, S, D]: every expert on every token
    weight = np.zeros((groups, tokens, experts))  # 1 where a token is worked on
    taken = np.full((groups, experts, slots), -1)
    selected, place = np.zeros((2, groups, tokens, k), np.int32)
    values = np.asarray(jax.lax.stop_gradient(gates))
    for g in range(groups):
        if choose:
            for e in range(experts):
                taken[g, e] = np.argsort(-values[g, :, e], kind="stable")[:slots]
                weight[g, taken[g, e], e] = 1
            continue
        selected[g] = np.argsort(-values[g], axis=-1, kind="stable")[:, :k]
        count = np.zeros(experts, int)
        for j in range(k):
            for s in range(tokens):
                e = selected[g, s, j]
                if count[e] < slots:
                    weight[g, s, e] = 1
                place[g, s, j] = count[e]
                count[e] += 1
    y = jnp.einsum("gse,egsd->gsd", gates * weight, outputs)
    out["gates_clean"], out["capacity"] = clean, np.int32(slots)
    if noise is not None:
        out["gates_noisy"] = gates
    if choose:
        out["ec_token"] = taken.astype(np.int32)
        out["ec_weight"] = jnp.stack([gates[g, taken[g], np.arange(experts)[:, None]] for g in range(groups)])
        return y, jnp.zeros(groups)
    out["selected_expert"], out["slot_unclipped"] = selected, place
    out["slot"] = np.where(place < slots, place, -1).astype(np.int32)
    out["topk_gate"] = jnp.take_along_axis(gates, selected, -1)
    out["combine_weight"] = out["topk_gate"] * (place < slots)
    out["dropped"] = np.int32((place >= slots).sum())
    importance = jnp.stack([squared_variation(clean[g].sum(0)) for g in range(groups)])
    loss = router["importance_loss_weight"] * importance
    out["importance_loss"] = importance
    if noise is not None:
        kth = np.argsort(-np.asarray(jax.lax.stop_gradient(noisy)), axis=-1, kind="stable")[..., k - 1]
        eta = jnp.take_along_axis(noisy, kth[..., None], -1)
        chance = 0.5 * jax.scipy.special.erfc((eta - z) / sigma / math.sqrt(2))
        load = jnp.stack([squared_variation(chance[g].mean(0)) for g in range(groups)])
        loss = loss + router["load_loss_weight"] * load
        out["load_loss"] = load
    out["auxiliary_loss"] = loss
    return y, loss


def sincos2d(height, width, d, temperature):
    omega = 1 / temperature ** (np.arange(d // 4) / (d // 4 - 1))
    y, x = np.mgrid[:height, :width]
    y, x = y.reshape(-1, 1) * omega, x.reshape(-1, 1) * omega
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)


def forward(p, images, m, noise, out):
    rows, columns = m["patch_size"]
    b, height, width, channels = images.shape
    gh, gw = height // rows, width // columns
    cut = images[:, : gh * rows, : gw * columns].reshape(b, gh, rows, gw, columns, channels)
    patches = cut.transpose(0, 1, 3, 2, 4, 5).reshape(b, gh * gw, -1)
    d = m["hidden_size"]
    x = patches @ p["embedding"]["kernel"].reshape(-1, d) + p["embedding"]["bias"]
    if m["classifier"] == "token":
        x = jnp.concatenate([jnp.broadcast_to(p["cls"], (b, 1, d)), x], axis=1)
    encoder = m["encoder"]
    positions = encoder.get("position_emb", {"name": "learned"})
    if positions["name"] == "learned":
        x = x + p["Encoder"]["posembed_input"]["pos_embedding"]
    elif positions["name"] == "sincos2d":
        table = sincos2d(gh, gw, d, positions.get("temperature", 10000))
        x = x.at[:, x.shape[1] - gh * gw :].add(table)
    auxiliary = 0.0
    for l in range(encoder["num_layers"]):
        q = p["Encoder"][f"encoderblock_{l}"]
        a = layernorm(x, q["LayerNorm_0"])
        x = x + attention(a, a, q["SelfAttention"])
        y = layernorm(x, q["LayerNorm_1"])
        if "Moe" in q:
            shown = out.setdefault("moe", {}).setdefault(f"encoderblock_{l}", {})
            grouped = y.reshape(-1, encoder["moe"]["group_size"], d)
            layer, loss = moe(grouped, q["Moe"], encoder["moe"], noise and noise[f"encoderblock_{l}"], shown)
            auxiliary = auxiliary + loss
            x = x + layer.reshape(x.shape)
        else:
            x = x + mlp(y, q["Mlp"])
        out.setdefault("blocks", {})[f"encoderblock_{l}"] = x
    x = layernorm(x, p["Encoder"]["encoder_norm"])
    out["encoded"] = x
    if m["classifier"] == "gap":
        x = x.mean(1)
    elif m["classifier"] == "map":
        q = p["MapHead"]
        probe = jnp.broadcast_to(q["probe"], (b, 1, d))
        u = attention(probe, x, q["MultiHeadDotProductAttention"])
        x = (u + mlp(layernorm(u, q["LayerNorm"]), q["Mlp"]))[:, 0]
    else:
        x = x[:, 0]
    if "pre_logits" in p:
        x = jnp.tanh(x @ p["pre_logits"]["kernel"] + p["pre_logits"]["bias"])
    out["logits"] = x @ p["head"]["kernel"] + p["head"]["bias"]
    return out["logits"], jnp.mean(auxiliary)


def total_loss(p, images, labels, m, noise, out):
    logits, auxiliary = forward(p, images, m, noise, out)
    main = -(labels * jax.nn.log_softmax(logits)).sum(-1).mean()
    out["loss_main"], out["auxiliary_loss"], out["total_loss"] = main, auxiliary, main + auxiliary
    return main + auxiliary


def shapes(m, image, classes):
    d, f, h = m["hidden_size"], m["encoder"]["mlp_dim"], m["encoder"]["num_heads"]
    rows, columns = m["patch_size"]
    patches = (image[0] // rows) * (image[1] // columns)

    def norm(n):
        return {"scale": (n,), "bias": (n,)}

    def dense(i, o, *lead):
        return {"kernel": (*lead, i, o), "bias": (*lead, o)}

    def heads():
        made = {n: {"kernel": (d, h, d // h), "bias": (h, d // h)} for n in ("query", "key", "value")}
        made["out"] = {"kernel": (h, d // h, d), "bias": (d,)}
        if m["encoder"].get("attention_qk_norm"):
            made["query_ln"] = made["key_ln"] = {"scale": (d // h,)}
        return made

    def two(*lead):
        return {"Dense_0": dense(d, f, *lead), "Dense_1": dense(f, d, *lead)}

    tokens = patches + (m["classifier"] == "token")
    tree = {"embedding": {"kernel": (rows, columns, image[2], d), "bias": (d,)}, "head": dense(m["representation_size"] or d, classes)}
    if m["classifier"] == "token":
        tree["cls"] = (1, 1, d)
    encoder = {"encoder_norm": norm(d)}
    if m["encoder"].get("position_emb", {"name": "learned"})["name"] == "learned":
        encoder["posembed_input"] = {"pos_embedding": (1, tokens, d)}
    for l in range(m["encoder"]["num_layers"]):
        block = {"LayerNorm_0": norm(d), "LayerNorm_1": norm(d), "SelfAttention": heads()}
        sparse = m["encoder"].get("moe")
        if sparse and l in sparse["layers"]:
            e = sparse["num_experts"]
            block["Moe"] = {"Mlp": two(e), "Router": {"dense": {"kernel": (d, e)}}}
        else:
            block["Mlp"] = two()
        encoder[f"encoderblock_{l}"] = block
    tree["Encoder"] = encoder
    if m["classifier"] == "map":
        tree["MapHead"] = {"probe": (1, 1, d), "MultiHeadDotProductAttention": heads(), "LayerNorm": norm(d), "Mlp": two()}
    if m["representation_size"]:
        tree["pre_logits"] = dense(d, m["representation_size"])
    return tree, tokens


def model(classifier, router=None, image=(9, 8, 2), patch=(3, 4), representation=None, **encoder):
    made = {
        "name": "VisionTransformerMoe",
        "num_classes": 5,
        "patch_size": list(patch),
        "hidden_size": 16,
        "classifier": classifier,
        "representation_size": representation,
        "head_bias_init": 0.0,
        "encoder": {"num_layers": 2, "mlp_dim": 24, "num_heads": 2, "dropout_rate": 0.0, "attention_dropout_rate": 0.0, **encoder},
    }
    tokens = shapes(made, image, 5)[1]
    if router:
        made["encoder"]["moe"] = {"layers": [1], "num_experts": 4, "group_size": 4 * tokens, "split_rngs": False, "router": router}
    return made, image


TOP_K = {"num_selected_experts": 2, "noise_std": 1.0, "importance_loss_weight": 0.005, "load_loss_weight": 0.005,
         "dispatcher": {"name": "einsum", "capacity_factor": 1.05, "batch_priority": False, "bfloat16": False}}


def chosen(**dispatcher):
    return {"name": "NoisyTopItemsPerExpertRouter", "noise_std": 1.0,
            "dispatcher": {"name": "einsum", "bfloat16": False, **dispatcher}}


FILES = {
    "model_experts_choice": model("token", chosen(capacity_factor=1.0, capacity_ceil_or_round="round", capacity_multiple_of=1)),
    "model_experts_choice_gap": model("gap", chosen(capacity=7), position_emb={"name": "sincos2d", "temperature": 100.0}),
    "model_map_qk_norm": model("map", TOP_K, attention_qk_norm=True, position_emb={"name": "none"}),
    "model_map_pre_logits": model("map", None, representation=6),
    "model_first_token": model("0", TOP_K, image=(10, 13, 1)),
    "model_sincos_class_token": model("token", TOP_K, position_emb={"name": "sincos2d"}, attention_qk_norm=True),
}


def write(group, tree):
    for name, value in tree.items():
        if isinstance(value, dict):
            write(group.require_group(name), value)
        else:
            value = np.asarray(value)
            group.create_dataset(name, data=value)


def make(path, m, image, seed):
    draw = np.random.default_rng(seed)
    tree, tokens = shapes(m, image, 5)

    def random(shape, name):
        scale = 0.2
        value = draw.normal(size=shape) * scale + (1 if name == "scale" else 0)
        return value.astype(np.float32)

    params = {}

    def fill(source, to):
        for name, value in source.items():
            if isinstance(value, dict):
                fill(value, to.setdefault(name, {}))
            else:
                to[name] = random(value, name)

    fill(tree, params)
    images = draw.uniform(-1, 1, size=(8, *image)).astype(np.float32)
    labels = np.eye(5, dtype=np.float32)[draw.integers(5, size=8)]
    sparse = m["encoder"].get("moe")
    noise = None
    if sparse:
        shape = (8 * tokens // sparse["group_size"], sparse["group_size"], sparse["num_experts"])
        noise = {f"encoderblock_{l}": draw.normal(size=shape).astype(np.float32) for l in sparse["layers"]}
    wide = jax.tree_util.tree_map(lambda x: jnp.asarray(x, jnp.float64), params)
    arguments = (jnp.asarray(images, jnp.float64), jnp.asarray(labels, jnp.float64), m)
    exact = noise and {name: jnp.asarray(x, jnp.float64) for name, x in noise.items()}
    out, evaluated, ignored = {}, {}, {}
    total_loss(wide, *arguments, exact, out)
    grads = jax.grad(lambda q: total_loss(q, *arguments, exact, ignored))(wide)
    total_loss(wide, *arguments, None, evaluated)
    config = {"model": m, "image_shape": list(image), "batch_size": 8, "num_tokens": tokens, "eval_overrides": {},
              "labels": "onehot", "loss": {"name": "softmax_xent"}}
    with h5py.File(path, "w") as file:
        text = {"format": "vitrail-golden-1", "kind": "model", "name": path.stem, "config": json.dumps(config),
                "precision": "float64", "source": "a second, plain implementation: tests/golden/second/make_models.py",
                "description": "what no file of the original implementation covers"}
        for name, value in text.items():
            file.attrs[name] = np.bytes_(value.encode())
        for name, value in (("params", params), ("grads", grads), ("out", out)):
            write(file.create_group(name), value)
        if noise:
            write(file.create_group("noise"), noise)
        write(file.create_group("batch"), {"images": images, "labels": labels})
        shown = {name: evaluated[name] for name in ("logits", "loss_main")}
        if sparse:
            shown["moe"] = evaluated["moe"]
        write(file.create_group("eval"), shown)


def main():
    folder = Path(sys.argv[1])
    for seed, (name, (m, image)) in enumerate(FILES.items()):
        make(folder / f"{name}.h5", m, image, seed)


if __name__ == "__main__":
    main()
