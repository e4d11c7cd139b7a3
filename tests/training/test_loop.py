"""The loop against loops written out by hand; hooks, validations, plateaus, losses that are no numbers."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_runs import DATA, SHORT, checkpoint, content, same, state, tiny
from torch import nn

from nsrlib.data.patches import stream_seed
from nsrlib.training import Hooks, RunFolder, fit, learning_rate

# --- against a loop by hand -------------------------------------------------------------------------------------------

RECIPES = [
    SHORT,
    SHORT.replace(optimiser="adamw", weight_decay=0.1, schedule="linear", warmup=4, lr_scale=(("adder*", 30.0),)),
    SHORT.replace(optimiser="sgd", loss="l2", weight_decay=1e-2, schedule="multistep", milestones=(0.5,), momentum=0.5),
    SHORT.replace(loss="charbonnier", clip_norm=0.1, betas=(0.5, 0.9), schedule="constant", channels_last=True),
    SHORT.replace(clip_value=1e-3, seed=3, weight_decay=0.1),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.optimiser}-{r.loss}-{r.schedule}")
def test_fit_is_the_loop_that_one_would_write(recipe):
    by_hand = tiny().train()
    if recipe.channels_last:
        by_hand.to(memory_format=torch.channels_last)
    names = dict(by_hand.named_parameters())
    vectors = {"head.bias", "norm.weight", "norm.bias", "act.weight", "adder.bias"}
    groups = [
        {
            "params": [names[k] for k in members],
            "weight_decay": 0.0 if members <= vectors else recipe.weight_decay,
            "scale": dict(recipe.lr_scale).get("adder*", 1.0)
            if "adder.weight" in members or "adder.bias" in members
            else 1.0,
        }
        for members in ({"head.weight"}, {"adder.weight"}, vectors - {"adder.bias"}, {"adder.bias"})
    ]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[recipe.optimiser]
    options = {"momentum": recipe.momentum} if recipe.optimiser == "sgd" else {"betas": recipe.betas}
    optimiser = kind(groups, lr=1.0, fused=True, **options)
    losses = []
    for step in range(recipe.iterations):
        torch.manual_seed(stream_seed(recipe.seed, step, 2))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step) * group["scale"]
        x, y = DATA.batch(recipe.batch, stream_seed(recipe.seed, step))
        if recipe.channels_last:
            x, y = (t.to(memory_format=torch.channels_last) for t in (x, y))
        out = by_hand(x)
        charbonnier = ((out - y).square() + 1e-3**2).sqrt().mean()
        loss = {"l1": F.l1_loss(out, y), "l2": F.mse_loss(out, y), "charbonnier": charbonnier}[recipe.loss]
        optimiser.zero_grad()
        loss.backward()
        if recipe.clip_value:
            for p in by_hand.parameters():
                p.grad.clamp_(-recipe.clip_value, recipe.clip_value)
        if recipe.clip_norm:
            norm = torch.stack([p.grad.norm() for p in by_hand.parameters()]).norm()
            for p in by_hand.parameters():
                p.grad.mul_((recipe.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        optimiser.step()
        losses.append(loss.item())

    result = fit(tiny(), DATA, recipe, log_every=1, progress=False)
    assert not result.model.training
    ours, theirs = state(result.model), state(by_hand)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-5)
    assert list(result.history["step"]) == list(range(1, 13))
    np.testing.assert_allclose(result.history["lr"], [learning_rate(recipe, k) for k in range(12)], rtol=0)


def test_several_networks_are_trained_on_named_terms_by_optimisers_of_their_own():
    model, dual, idle = tiny(), nn.Conv2d(3, 3, 3, stride=2, padding=1), nn.Conv2d(3, 3, 1)
    before = [state(net) for net in (model, dual, idle)]

    def losses(model, batch, step, dual, idle):
        y = model(batch.input)
        return {
            "primal": F.l1_loss(y, batch.target),
            "dual": 0.1 * F.l1_loss(dual(y), batch.input),
            "z": 0 * idle.weight.sum(),
        }

    result = fit(model, DATA, SHORT, hooks=Hooks(losses, {"dual": dual, "idle": idle}), log_every=4, progress=False)
    assert list(result.history.columns) == ["step", "loss", "primal", "dual", "z", "lr", "seconds"]
    np.testing.assert_allclose(result.history["loss"], result.history[["primal", "dual", "z"]].sum(axis=1), rtol=1e-6)
    assert not same(before[0], state(model))
    assert not same(before[1], state(dual))
    assert same(before[2], state(idle))  # Adam does not move what has no gradient
    assert result.steps == 12


def test_hooks_are_called_in_their_order_and_with_their_arguments():
    calls = []
    model = tiny()
    weight = model.head.weight

    def losses(net, batch, step):
        calls.append(("losses", step, net is model, tuple(batch.target.shape)))
        return {"a": net(batch.input).mean(), "b": net(batch.input).square().mean()}

    def before_step(net, step):
        assert weight.grad is not None
        calls.append(("before_step", step, net is model, weight.detach().clone()))
        weight.grad.zero_()

    def after_step(net, steps):
        calls.append(("after_step", steps, net is model, weight.detach().clone()))
        return {"gate": 0.25 * steps}

    def validate(net):
        calls.append(("validate", net.training, net is model, torch.is_grad_enabled()))
        return {"psnr": 30.0}

    result = fit(
        model,
        DATA,
        SHORT.replace(iterations=3),
        hooks=Hooks(
            losses,
            before_forward=lambda net, step: calls.append(("before_forward", step, net is model, net.training)),
            before_step=before_step,
            after_step=after_step,
        ),
        validate=validate,
        validate_every=2,
        log_every=2,
        progress=False,
    )
    order = ["before_forward", "losses", "before_step"]
    assert [c[0] for c in calls] == [*order, *order, "after_step", "validate", *order, "after_step", "validate"]
    assert all(c[2] for c in calls)
    assert [c[1] for c in calls if c[0] in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [c[1] for c in calls if c[0] == "after_step"] == [2, 3]
    assert all(c[3] for c in calls if c[0] == "before_forward")
    assert [c[1:] for c in calls if c[0] == "validate"] == [(False, True, False)] * 2
    weights = [c[3] for c in calls if c[0] in ("before_step", "after_step")]
    assert all(torch.equal(w, weights[0]) for w in weights)  # the hook's gradient is the one that counts
    assert list(result.history["gate"]) == [0.5, 0.75]
    assert list(result.history["psnr"]) == [30.0, 30.0]


def test_rows_average_the_losses_since_the_last_one():
    one = fit(tiny(), DATA, SHORT, log_every=1, progress=False).history
    five = fit(tiny(), DATA, SHORT, log_every=5, progress=False).history
    assert list(five["step"]) == [5, 10, 12]
    expected = [one["loss"][:5].mean(), one["loss"][5:10].mean(), one["loss"][10:].mean()]
    np.testing.assert_allclose(five["loss"], expected, rtol=1e-12)


def test_validations_come_when_they_are_due_even_between_rows():
    result = fit(tiny(), DATA, SHORT, validate=lambda net: {"q": 1.0}, validate_every=5, log_every=4, progress=False)
    table = result.history
    assert list(table["step"]) == [4, 5, 8, 10, 12]
    assert list(table["step"][table["q"].notna()]) == [5, 10, 12]
    last = fit(tiny(), DATA, SHORT, validate=lambda net: {"q": 1.0}, log_every=4, progress=False).history
    assert list(last["step"][last["q"].notna()]) == [12]


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_running_mean_is_its_definition(decay):
    seen: list[dict[str, torch.Tensor]] = []

    def hook(net, step):
        if step:
            seen.append(state(net))

    validated = []
    result = fit(
        tiny(),
        DATA,
        SHORT.replace(ema=decay),
        hooks=Hooks(
            before_forward=hook, after_step=lambda net, steps: seen.append(state(net)) if steps == 12 else None
        ),
        validate=lambda net: validated.append(state(net)) or {"q": 0.0},
        log_every=12,
        progress=False,
    )
    assert len(seen) == 12
    mean = {k: t.double() for k, t in seen[0].items()}
    for weights in seen[1:]:
        mean = {k: decay * m + (1 - decay) * weights[k].double() for k, m in mean.items()}
    ours = state(result.model)
    assert same(validated[-1], ours)
    for name, t in ours.items():
        if t.is_floating_point():
            # each of 11 updates rounds twice, relative to the largest weight so far
            scale = max(float(w[name].abs().max()) for w in seen)
            assert (t.double() - mean[name]).abs().max() <= 11 * 2 * 2**-24 * scale, name
            assert not torch.equal(t, seen[-1][name]), name
    assert torch.equal(ours["order"], torch.arange(12).flip(0))
    assert ours["norm.num_batches_tracked"] == 12


def test_bfloat16_trains_float32_weights_to_nearly_the_same_losses():
    recipe = SHORT.replace(precision="bfloat16", channels_last=True)
    rough, fine = (
        fit(tiny(), DATA, r, log_every=1, progress=False) for r in (recipe, recipe.replace(precision="float32"))
    )
    assert {p.dtype for p in rough.model.parameters()} == {torch.float32}
    difference = (rough.history["loss"] - fine.history["loss"]).abs()
    assert difference.max() > 0
    # the first loss differs by the rounding of activations of order 1 alone
    assert difference[0] <= 2**-8 * fine.history["loss"][0]


def test_what_validation_draws_at_random_changes_nothing():
    def validate(net):
        net(torch.rand(1, 3, 8, 8))
        return {"q": float(torch.rand(()))}

    plain = fit(tiny(), DATA, SHORT, progress=False)
    other = fit(tiny(), DATA, SHORT, validate=validate, validate_every=1, progress=False)
    assert same(state(plain.model), state(other.model))


def test_training_leaves_the_generator_and_signals_as_they_were():
    before = torch.get_rng_state(), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fit(tiny(), DATA, SHORT, progress=False)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before[1:]


def test_training_in_a_thread_is_the_same():
    result = []
    thread = threading.Thread(target=lambda: result.append(fit(tiny(), DATA, SHORT, progress=False)))
    thread.start()
    thread.join()
    assert same(state(result[0].model), state(fit(tiny(), DATA, SHORT, progress=False).model))


def test_seeds_give_different_trainings():
    a, b = (fit(tiny(), DATA, SHORT.replace(seed=s), progress=False) for s in (0, 1))
    assert not same(state(a.model), state(b.model))


# --- plateaus ---------------------------------------------------------------------------------------------------------


def test_a_plateau_lowers_the_rate_and_ends_the_training_below_its_minimum(tmp_path):
    recipe = SHORT.replace(
        iterations=100, schedule="plateau", lr=1.0, lr_min=0.05, gamma=0.25, patience=2, optimiser="sgd"
    )
    qualities = iter([1, 2, 2, 1.5, 3, 3, 2.9, 3, 0, *[9] * 50])

    def run():
        return fit(
            tiny(), DATA, recipe.replace(lr=1e-3, lr_min=5e-5), out=tmp_path,
            validate=lambda net: {"q": float(next(qualities)), "r": 0.0}, validate_every=2, progress=False, log_every=1,
        )  # fmt: skip

    result = run()
    table = result.history
    # best 2 at step 4, not better at 6 and 8: a quarter from step 9 on; best 3 at 10, then 12 and 14: a sixteenth;
    # then 16 and 18: a 64th, which is below the least
    rates = dict(zip(table["step"], table["lr"] / 1e-3, strict=True))
    assert [rates[k] for k in (8, 9, 14, 15, 18)] == pytest.approx([1, 1 / 4, 1 / 4, 1 / 16, 1 / 16])
    assert result.steps == table["step"].iloc[-1] == 18
    assert checkpoint(tmp_path).name.startswith("checkpoint-00000018-")
    assert content(checkpoint(tmp_path))["plateau"] == [1 / 64, 3.0, 0]
    again = run()
    assert again.steps == 18
    assert same(state(again.model), state(result.model))


@pytest.mark.parametrize(
    ("arguments", "change", "message"),
    [
        ({"validate_every": 5}, {}, "validate_every and the schedule 'plateau' need a function: pass validate"),
        ({}, {"schedule": "plateau"}, "need a function: pass validate"),
        ({"validate": len}, {"schedule": "plateau"}, "the schedule 'plateau' needs validate_every, got 0"),
        ({}, {"patch": 5}, "recipe.patch=5, but data was cut for patches of 6"),
        ({"device": "cuda:99"}, {}, "device 'cuda:99' cannot be used"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(arguments, change, message):
    with pytest.raises(ValueError, match=message):
        fit(tiny(), DATA, SHORT.replace(**change), progress=False, **arguments)


def test_a_network_without_parameters_is_refused():
    with pytest.raises(ValueError, match="Upsample has no parameters to train"):
        fit(nn.Upsample(scale_factor=2), DATA, SHORT, progress=False)


# --- losses that are no numbers ---------------------------------------------------------------------------------------


def poisoned(at: int, how: str):
    def losses(model, batch, step):
        loss = F.l1_loss(model(batch.input), batch.target)
        if step + 1 == at:
            if how == "gradient":  # 0, with an infinite gradient
                return {"l1": (0 * loss).sqrt()}
            loss = loss * float(how)
        return {"l1": loss}

    return losses


@pytest.mark.parametrize("how", ["nan", "inf"])
def test_a_loss_that_is_no_number_stops_with_step_loss_and_checkpoint(tmp_path, how):
    hooks = Hooks(poisoned(8, how))
    with pytest.raises(FloatingPointError, match=f"^the loss is {how} at step 8; no checkpoint yet$"):
        fit(tiny(), DATA, SHORT, hooks=hooks, log_every=5, progress=False)
    with pytest.raises(FloatingPointError, match=rf"{how} at step 8; the last good .* checkpoint-00000007-\w+\.pt in "):
        fit(
            tiny(), DATA, SHORT, hooks=hooks, log_every=5, out=RunFolder(tmp_path, checkpoint_seconds=0), progress=False
        )
    assert f"the loss is {how} at step 8; the last good checkpoint is" in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "weights.safetensors").exists()
    resumed = fit(tiny(), DATA, SHORT, log_every=5, out=tmp_path, progress=False)
    assert same(state(resumed.model), state(fit(tiny(), DATA, SHORT, progress=False).model))


@pytest.mark.parametrize("at", [8, 12])
def test_weights_that_are_no_numbers_are_neither_kept_nor_returned(tmp_path, at):
    what = {8: "the loss is nan at step 9", 12: "weights are NaN or infinite after step 12, with a loss of 0"}[at]
    message = rf"^{what}; .*-000000{at - 1:02}-"
    with pytest.raises(FloatingPointError, match=message):
        fit(
            tiny(), DATA, SHORT, hooks=Hooks(poisoned(at, "gradient")), log_every=12,
            out=RunFolder(tmp_path, checkpoint_seconds=0), progress=False,
        )  # fmt: skip
    assert not (tmp_path / "weights.safetensors").exists()
    assert all(t.isfinite().all() for t in content(checkpoint(tmp_path))["model"].values())
