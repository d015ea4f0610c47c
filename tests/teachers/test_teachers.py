from __future__ import annotations

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from naslib_autokd.data.views import draw_views
from naslib_autokd.distillation.training import TrainingSettings, accuracy, seeded, train
from naslib_autokd.evaluators.kd import KDEvaluator
from naslib_autokd.files import cache_folder
from naslib_autokd.search_spaces.hnag.parameters import KDSettings
from naslib_autokd.tasks import get_task
from naslib_autokd.teachers import check
from naslib_autokd.teachers.check import check_teacher
from naslib_autokd.teachers.load import cached_teacher_path, load_teacher, read_checkpoint, write_checkpoint
from naslib_autokd.teachers.names import ARCHITECTURES, TeacherError
from naslib_autokd.teachers.networks import SmallResNet
from naslib_autokd.teachers.soft_targets import SoftTargets, soft_targets_path
from naslib_autokd.teachers.teacher import Teacher
from naslib_autokd.teachers.training import train_teacher


def fresh_network(n_classes=10):
    with seeded(0):
        return SmallResNet(1, n_classes, ARCHITECTURES["resnet-small"])


def good_factory():
    """A user's teacher, by 'module:function'."""
    return nn.Flatten()


# --- the task's own teacher -----------------------------------------------------------------------------------------


def test_the_teacher_is_as_good_as_promised(cluttered_teacher, cluttered_data):
    reached = check_teacher(cluttered_teacher, cluttered_data)
    assert 0.89 < reached < 0.95  # measured with 5 to 7 epochs: 0.909 to 0.932
    assert reached == pytest.approx(cluttered_teacher.info["val_accuracy"], abs=1e-3)
    assert 30_000 < sum(parameter.numel() for parameter in cluttered_teacher.parameters()) < 50_000


def test_the_teacher_is_trained_once_and_then_read_from_the_cache(cluttered_teacher, cluttered_data, cache_folder):
    said = []
    again = load_teacher(cluttered_data, report=said.append)
    assert said == []
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, cluttered_teacher.state_dict()[name])
    assert str(cached_teacher_path(cluttered_data)).startswith(cache_folder)


def test_training_a_teacher_is_deterministic_and_leaves_threads_alone(tiny_data):
    threads = torch.get_num_threads()
    first, second = (train_teacher(tiny_data, epochs=1).state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert torch.get_num_threads() == threads


def test_the_cache_key_depends_on_what_the_training_depends_on(tiny_data):
    path = cached_teacher_path(tiny_data)
    for change in ({"teacher_epochs": 2}, {"teacher": "resnet-medium"}):
        assert cached_teacher_path(replace(tiny_data, task=replace(tiny_data.task, **change))) != path
    for change in ({"max_params": 9_000}, {"batch_size": 16}):  # what only students see
        assert cached_teacher_path(replace(tiny_data, task=replace(tiny_data.task, **change))) == path
    changed = tiny_data.teacher_views.drawn.clone()
    changed[0, 0, 0, 0, 0] ^= 1
    assert cached_teacher_path(replace(tiny_data, teacher_views=changed)) != path


def test_fewer_images_for_students_leave_the_teacher_alone(cluttered_data):
    from naslib_autokd.data.load import load_data

    fewer = load_data(replace(cluttered_data.task, n_train=100, n_val=500))
    assert cached_teacher_path(fewer) == cached_teacher_path(cluttered_data)


def test_a_corrupt_cache_file_is_reported_and_replaced(cluttered_data, monkeypatch, tmp_path, cluttered_teacher):
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path))
    monkeypatch.setattr("naslib_autokd.teachers.load.train_teacher", lambda data: cluttered_teacher)
    path = cached_teacher_path(cluttered_data)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"torn")
    said = []
    load_teacher(cluttered_data, report=said.append)
    assert "unusable and is trained again" in said[0]
    said.clear()
    load_teacher(cluttered_data, report=said.append)
    assert said == []
    assert [file for file in os.listdir(path.parent) if file.endswith(".tmp")] == []


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.delenv("NASLIB_AUTOKD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert str(cache_folder()) == "/xdg/naslib_autokd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(cache_folder()) == "/home/someone/.cache/naslib_autokd"


# --- frozen ---------------------------------------------------------------------------------------------------------


def test_a_teacher_is_frozen_and_stays_in_eval_mode(cluttered_data):
    teacher = Teacher(fresh_network().train(), cluttered_data.mean, cluttered_data.std)
    nn.ModuleList([teacher]).train()
    teacher.train(True)
    assert not any(module.training for module in teacher.modules())
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    logits = teacher(cluttered_data.train_images[:8])
    assert not logits.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_soft_targets_are_the_teachers_logits_of_each_sample_and_view(cluttered_teacher, tiny_data):
    targets = SoftTargets.of(cluttered_teacher, tiny_data)
    assert targets.train.shape == (2, 64, 10)
    assert targets.train.dtype == torch.float32
    for view, sample in ((0, 0), (1, 5), (1, 63)):
        live = cluttered_teacher(tiny_data.train_views[view, sample][None])[0]
        torch.testing.assert_close(targets.train[view, sample], live, rtol=1e-4, atol=1e-4)
    agreement = accuracy(targets.val, tiny_data.val_labels)
    assert agreement > 0.85


# --- wrong teachers are told apart ----------------------------------------------------------------------------------


def test_wrong_number_of_classes_is_an_error(cluttered_data):
    with pytest.raises(TeacherError, match=r"\(3000, 7\).*has 10 classes"):
        load_teacher(cluttered_data, fresh_network(n_classes=7))


def test_untrained_teacher_is_an_error(cluttered_data):
    with pytest.raises(TeacherError, match=r"below the floor of 85.0% \(chance 10.0%\).*looks untrained"):
        load_teacher(cluttered_data, fresh_network())


def test_permuted_classes_are_recognised(cluttered_teacher, cluttered_data):
    class Permuted(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = cluttered_teacher.network

        def forward(self, images):
            return self.network(images)[:, [1, 0, *range(2, 10)]].roll(1, dims=1)

    with pytest.raises(TeacherError, match=r"with its classes permuted \(.*->.*\) it would reach 9\d\.\d%"):
        load_teacher(cluttered_data, Permuted())


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ((0.0,), (1 / 255,), "with the task's normalisation as input it reaches 9"),
        ((3.0,), (0.05,), "with the task's normalisation as input it reaches 9"),
    ],
)
def test_wrong_scale_is_recognised(cluttered_teacher, cluttered_data, mean, std, expected):
    with pytest.raises(TeacherError, match=f"{expected}.*on the wrong scale"):
        load_teacher(cluttered_data, Teacher(cluttered_teacher.network, mean, std))


def test_a_network_that_wants_pixels_is_recognised(cluttered_teacher, cluttered_data):
    class WantsPixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = cluttered_teacher.network

        def forward(self, images):  # made for 0..255, given standardised images
            return self.network((images / 255 - cluttered_data.mean[0]) / cluttered_data.std[0])

    with pytest.raises(TeacherError, match=r"with pixels in 0\.\.255 as input it reaches 9.*wrong scale"):
        load_teacher(cluttered_data, WantsPixels())


class Weak(nn.Module):
    """Takes half of the classes for others, and more of them on the scale that it gets than on pixels in 0..255."""

    def __init__(self, teacher, data):
        super().__init__()
        self.network, self.data = teacher.network, data

    def forward(self, images):
        logits = self.network((images / 255 - self.data.mean[0]) / self.data.std[0]).clone()
        logits[:, :4] -= 50
        return logits


def test_a_teacher_that_learned_little_may_be_on_the_wrong_scale_or_not(cluttered_teacher, cluttered_data):
    network = Weak(cluttered_teacher, cluttered_data)
    with pytest.raises(
        TeacherError, match=r"so either it is fed .*the wrong scale.*, or it has learned too little so far"
    ):
        load_teacher(cluttered_data, network)


def test_a_teacher_that_reaches_what_its_training_reached_is_on_the_right_scale(cluttered_teacher, cluttered_data):
    teacher = Teacher(Weak(cluttered_teacher, cluttered_data), cluttered_data.mean, cluttered_data.std)
    reached = accuracy(teacher.predict(cluttered_data.val_images), cluttered_data.val_labels)
    teacher.info["val_accuracy"] = reached
    with pytest.raises(
        TeacherError, match=r"its input is right, for its training reached as much.*train it longer"
    ) as told:
        load_teacher(cluttered_data, teacher)
    assert "scale" not in str(told.value)
    teacher.info["val_accuracy"] = reached + 0.2  # then it may be
    with pytest.raises(TeacherError, match="wrong scale"):
        load_teacher(cluttered_data, teacher)


def test_outputs_that_are_not_finite_are_an_error(cluttered_data):
    network = fresh_network()
    nn.init.constant_(network.head.bias, float("nan"))
    with pytest.raises(TeacherError, match="not finite"):
        load_teacher(cluttered_data, network)


def test_a_teacher_for_other_images_is_an_error(cluttered_data):
    with pytest.raises(TeacherError, match=r"cannot take the images of 'cluttered-digits' \(1x12x12\).*--input-size"):
        load_teacher(cluttered_data, SmallResNet(3, 10, (8, 8)))


def test_a_teacher_below_what_its_checkpoint_states_is_an_error(cluttered_teacher, cluttered_data):
    boastful = Teacher(cluttered_teacher.network, cluttered_teacher.mean, cluttered_teacher.std, {"val_accuracy": 0.99})
    with pytest.raises(TeacherError, match=r"its checkpoint states 99\.0%"):
        load_teacher(cluttered_data, boastful)


def test_other_class_names_are_an_error(cluttered_teacher, cluttered_data):
    names = [str(digit) for digit in (1, 0, *range(2, 10))]
    other = Teacher(cluttered_teacher.network, cluttered_teacher.mean, cluttered_teacher.std, {"classes": names})
    with pytest.raises(TeacherError, match="the teacher's classes are 1, 0, 2"):
        check_teacher(other, cluttered_data)
    with pytest.raises(TeacherError, match=r"with its classes permuted \(0->1, 1->0\)"):  # reordered by false names
        load_teacher(cluttered_data, other)


# --- the user's teacher ---------------------------------------------------------------------------------------------


def test_checkpoints_survive_both_formats(cluttered_teacher, cluttered_data, tmp_path):
    write_checkpoint(cluttered_teacher, tmp_path / "t.safetensors", cluttered_data)
    torch.save(cluttered_teacher.network.state_dict(), tmp_path / "t.pt")
    prefixed = {f"module.{name}": tensor for name, tensor in cluttered_teacher.network.state_dict().items()}
    torch.save(prefixed, tmp_path / "parallel.pt")
    images = cluttered_data.val_images[:50]
    for name in ("t.safetensors", "t.pt", "parallel.pt"):
        loaded = load_teacher(cluttered_data, tmp_path / name)
        torch.testing.assert_close(loaded(images), cluttered_teacher(images), rtol=1e-5, atol=1e-5)
    assert read_checkpoint(tmp_path / "t.safetensors", cluttered_data).info["classes"] == list(cluttered_data.classes)


def test_a_teacher_brings_its_own_normalisation(cluttered_teacher, cluttered_data, tmp_path):
    write_checkpoint(cluttered_teacher, tmp_path / "t.safetensors", cluttered_data)
    other_data = replace(cluttered_data, mean=(0.7,), std=(0.1,))
    assert read_checkpoint(tmp_path / "t.safetensors", other_data).mean == cluttered_data.mean


def test_teacher_by_module_and_function(cluttered_data):
    with pytest.raises(TeacherError, match=r"answers with shape \(3000, 144\)"):
        load_teacher(cluttered_data, f"{__name__}:good_factory")
    with pytest.raises(TeacherError, match="cannot be imported"):
        load_teacher(cluttered_data, "nowhere:at_all")
    with pytest.raises(TeacherError, match="neither an existing file nor"):
        load_teacher(cluttered_data, "teacher")
    with pytest.raises(TeacherError, match="returned a str, not a torch module"):
        load_teacher(cluttered_data, "os:getcwd")


def test_unusable_checkpoints_are_errors(cluttered_data, tmp_path):
    def expect(message, name):
        with pytest.raises(TeacherError, match=message):
            load_teacher(cluttered_data, tmp_path / name)

    expect("does not exist", "missing.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{broken")
    expect("is corrupt", "torn.safetensors")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    expect("cannot be loaded", "torn.pt")
    (tmp_path / "empty.pt").touch()
    expect("cannot be loaded", "empty.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    expect("must hold a state dict", "list.pt")
    state = fresh_network().state_dict()
    state.pop("head.bias")
    torch.save(state, tmp_path / "partial.pt")
    expect(r"(?s)does not fit resnet-small.*head\.bias", "partial.pt")
    save_file(fresh_network(n_classes=7).state_dict(), tmp_path / "seven.safetensors")
    expect("does not fit resnet-small with 10 classes", "seven.safetensors")


def test_a_truncated_checkpoint_is_an_error(cluttered_teacher, cluttered_data, tmp_path):
    path = tmp_path / "t.safetensors"
    write_checkpoint(cluttered_teacher, path, cluttered_data)
    assert set(load_file(path)) == set(cluttered_teacher.network.state_dict())
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(TeacherError, match="is corrupt"):
            read_checkpoint(path, cluttered_data)


class Malicious:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return (np.savetxt, (self.victim, [1.0]))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_not_executed(cluttered_data, tmp_path, zipped):
    victim = str(tmp_path / "executed")
    payload = {"stem.weight": Malicious(victim)}
    if zipped:
        torch.save(payload, tmp_path / "evil.pt")
    else:
        (tmp_path / "evil.pt").write_bytes(pickle.dumps(payload))
    with pytest.raises(TeacherError, match="cannot be loaded"):
        load_teacher(cluttered_data, tmp_path / "evil.pt")
    assert not os.path.exists(victim)
    pickle.loads(pickle.dumps(Malicious(victim)))  # the file would do harm if it were unpickled
    assert os.path.exists(victim)


# --- soft targets on disk -------------------------------------------------------------------------------------------


def test_soft_targets_are_computed_once_a_machine(tiny_data, cluttered_teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path))
    fresh = SoftTargets.of(cluttered_teacher, tiny_data)
    first, said = SoftTargets.cached(cluttered_teacher, tiny_data), []
    path = soft_targets_path(cluttered_teacher, tiny_data, 1)
    assert path.exists()
    monkeypatch.setattr(SoftTargets, "of", None)  # not called again
    again = SoftTargets.cached(cluttered_teacher, tiny_data, report=said.append)
    assert said == []
    for one in (first, again):
        assert torch.equal(one.train, fresh.train)
        assert torch.equal(one.val, fresh.val)

    other = Teacher(fresh_network(), tiny_data.mean, tiny_data.std)
    assert soft_targets_path(other, tiny_data, 1) != path
    assert soft_targets_path(cluttered_teacher, tiny_data, 2) != path


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1000] ^= 4
    path.write_bytes(content)


def _rewrite(change):
    """The same file with other tensors below the metadata that it had."""

    def damage(path):
        with safe_open(path, "pt") as file:
            tensors, metadata = {name: file.get_tensor(name).clone() for name in ("train", "val")}, file.metadata()
        save_file(change(tensors), path, metadata)

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_rewrite(lambda t: t | {"train": t["train"].flip(1).contiguous()}), "damaged"),
        (_flip_a_bit, "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "computed again: "),
        (_rewrite(lambda t: t | {"train": t["train"][:, 1:].contiguous()}), "damaged"),
        (_rewrite(lambda t: t | {"train": t["train"].flatten(0, 1)}), "damaged"),
        (_rewrite(lambda t: t | {"train": t["train"] * float("nan")}), "damaged"),
        (_rewrite(lambda t: {"train": t["val"], "val": t["train"]}), "damaged"),
        (lambda path: save_file({"train": torch.ones(2, 64, 10), "val": torch.ones(200, 10)}, path), "does not state"),
        (lambda path: path.write_bytes(b""), "computed again: "),
    ],
    ids=["reversed", "one bit", "truncated", "fewer", "other shape", "nan", "exchanged", "no metadata", "empty"],
)
def test_damaged_soft_targets_are_computed_again(damage, said, tiny_data, cluttered_teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path))
    SoftTargets.cached(cluttered_teacher, tiny_data)
    path, lines = soft_targets_path(cluttered_teacher, tiny_data, 1), []
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    again = SoftTargets.cached(cluttered_teacher, tiny_data, report=lines.append)
    assert len(lines) == 1
    assert said in lines[0]
    assert str(path) in lines[0]
    fresh = SoftTargets.of(cluttered_teacher, tiny_data)
    replaced = SoftTargets.cached(cluttered_teacher, tiny_data, report=lines.append)
    assert len(lines) == 1
    for one in (again, replaced):
        assert torch.equal(one.train, fresh.train)
        assert torch.equal(one.val, fresh.val)


def test_soft_targets_of_another_teacher_under_this_name_are_computed_again(
    tiny_data, cluttered_teacher, tmp_path, monkeypatch
):
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path))
    other, lines = Teacher(fresh_network(), tiny_data.mean, tiny_data.std), []
    SoftTargets.cached(other, tiny_data)
    path = soft_targets_path(cluttered_teacher, tiny_data, 1)
    soft_targets_path(other, tiny_data, 1).rename(path)
    again = SoftTargets.cached(cluttered_teacher, tiny_data, report=lines.append)
    assert "were made for cluttered-digits-" in lines[0]
    assert torch.equal(again.train, SoftTargets.of(cluttered_teacher, tiny_data).train)


def test_soft_targets_of_other_code_with_the_same_weights_are_computed_again(tiny_data, tmp_path, monkeypatch):
    class Own(nn.Module):
        sharpness = 1

        def __init__(self):
            super().__init__()
            self.body = fresh_network()

        def forward(self, images):
            return self.sharpness * self.body(images)

    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path))
    teacher, lines = Teacher(Own(), tiny_data.mean, tiny_data.std), []
    before = SoftTargets.cached(teacher, tiny_data, report=lines.append)
    assert lines == ["computing the teacher's soft targets of 64 images (once)"]
    Own.sharpness = 2  # an edit of the user's
    after = SoftTargets.cached(teacher, tiny_data, report=lines.append)
    assert "its code has changed" in lines[1]
    assert torch.equal(after.train, 2 * before.train)


@pytest.mark.parametrize("architecture", ["resnet-small", "zoo:mobilenet_v2"])
def test_a_cold_and_a_warm_cache_give_the_same_run_bit_for_bit(
    architecture, tiny_data, make_cnn, tmp_path, monkeypatch
):
    """The teacher, its soft targets, and a student trained with them; with both, one or neither file there before."""
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path))
    changes = {"teacher": architecture, "teacher_epochs": 1, "min_teacher_accuracy": 0.0}
    data = replace(tiny_data, task=replace(tiny_data.task, **changes))
    monkeypatch.setattr(check, "clear_floor", lambda *_: 0.0)

    def run():
        evaluator = KDEvaluator(data.task, data=data)
        student, _ = evaluator.train_final(make_cnn, KDSettings(4.0, 0.9), seed=1, epochs=2)
        tensors = {**evaluator.teacher.state_dict(), **student.state_dict()}
        tensors |= {"train": evaluator.soft_targets.train, "val": evaluator.soft_targets.val}
        test_images, _ = data.read_test()
        return tensors | {"test": evaluator.teacher.predict(test_images)}

    cold, warm = run(), run()
    for file in (tmp_path / "soft-targets").glob("*.safetensors"):
        file.unlink()
    of_cached_teacher = run()
    for name, tensor in cold.items():
        for other in (warm[name], of_cached_teacher[name]):
            assert torch.equal(tensor, other), name
            assert tensor.stride() == other.stride(), name


def test_without_a_cache_folder_soft_targets_are_still_computed(tiny_data, cluttered_teacher, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NASLIB_AUTOKD_CACHE", str(tmp_path / "file"))
    assert len(SoftTargets.cached(cluttered_teacher, tiny_data).val) == len(tiny_data.val_images)


@pytest.mark.parametrize(
    ("n", "named_right", "named_wrong", "expected"),
    [
        (10, 0, 10, True),
        (9, 0, 9, False),  # too few images to say
        (20, 0, 10, True),  # half of the concerned are right after the exchange
        (20, 0, 9, False),
        (20, 3, 12, True),  # 3 right before, 12 after: a quarter
        (20, 4, 12, False),  # they were often right as they are
        (20, 20, 0, False),
    ],
)
def test_classes_count_as_exchanged_if_their_images_are_right_after_it_and_wrong_before(
    n, named_right, named_wrong, expected
):
    """Classes 1 and 2 of four; those of 0 and 3 are all named correctly and must not count."""
    moved = {1: 2, 2: 1}
    concerned = torch.arange(n) % 2 + 1
    named = torch.zeros(n, dtype=torch.long)  # neither of the two
    named[:named_right] = concerned[:named_right]
    named[named_right : named_right + named_wrong] = 3 - concerned[named_right : named_right + named_wrong]
    others = torch.tensor([0, 3] * 50)
    labels, answers = torch.cat([concerned, others]), torch.cat([named, others])
    assert check._are_exchanged(torch.nn.functional.one_hot(answers, 4).float(), labels, moved) is expected
    # a cycle of three goes one way: 0 -> 1 -> 2 -> 0
    cycle = torch.tensor([1, 2, 0] * 10)
    shown = torch.nn.functional.one_hot(torch.tensor([0, 1, 2] * 10), 4).float()
    assert check._are_exchanged(shown, cycle, {0: 1, 1: 2, 2: 0})
    assert not check._are_exchanged(shown, cycle, {1: 0, 2: 1, 0: 2})


def test_a_checkpoint_for_another_number_of_classes_is_an_error(cluttered_teacher, cluttered_data, tmp_path):
    write_checkpoint(cluttered_teacher, tmp_path / "t.safetensors", cluttered_data)
    fewer = replace(cluttered_data, task=replace(cluttered_data.task, n_classes=3), classes=("a", "b", "c"))
    with pytest.raises(TeacherError, match=r"was trained for 10 classes \(0, 1.*has 3 \(a, b, c\); give a teacher for"):
        read_checkpoint(tmp_path / "t.safetensors", fewer)
    of_it = replace(fewer, classes=("7", "0", "3"))
    with pytest.raises(TeacherError, match=r"has 3 \(7, 0, 3\), which are its outputs 7, 0, 3: give a module of your"):
        read_checkpoint(tmp_path / "t.safetensors", of_it)


# --- a training that goes on


@pytest.mark.parametrize("die_after", [1, 3])
def test_a_killed_training_goes_on_and_ends_as_if_it_had_not_been(tiny_data, tmp_path, die_after):
    kept = []
    whole = train_teacher(tiny_data, epochs=4, keep=kept.append)
    path = tmp_path / "state"
    seen = []

    def die(epoch, loss, reached):
        seen.append(epoch)
        if epoch == die_after + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_teacher(tiny_data, epochs=4, keep=lambda _: None, progress=die, resume=path)
    again = []
    resumed = train_teacher(
        tiny_data, epochs=4, keep=lambda _: None, progress=lambda epoch, *_: again.append(epoch), resume=path
    )
    assert seen == list(range(1, die_after + 2))
    assert again == list(range(die_after + 1, 5))
    assert resumed.info == whole.info
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)
    # killed between its last epoch and the end
    last = train_teacher(tiny_data, epochs=4, keep=lambda _: None, resume=path)
    assert all(torch.equal(tensor, last.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_an_unfinished_training_is_continued_as_it_was_begun_only(tiny_data, tmp_path):
    path = tmp_path / "state"
    train_teacher(tiny_data, epochs=2, resume=path)
    for other in ({"epochs": 3}, {"epochs": 2, "architecture": "resnet-medium"}, {"epochs": 2, "threads": 2}):
        with pytest.raises(TeacherError, match="unfinished training with other settings"):
            train_teacher(tiny_data, resume=path, **other)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(TeacherError, match=r"is damaged .* delete it to start anew"):
        train_teacher(tiny_data, epochs=2, resume=path)


def test_a_teacher_sees_a_fresh_view_each_epoch(tiny_data, monkeypatch):
    task = get_task(tiny_data.task, augmentation="crop-flip", n_views=2, max_shift=4)
    images = tiny_data.teacher_views[0].numpy()
    data = replace(tiny_data, task=task, teacher_views=draw_views(images, task))
    seen = []

    def look(model, shown, *args, **options):
        seen.append(shown.train_views)
        return train(model, shown, *args, **options)

    monkeypatch.setattr("naslib_autokd.teachers.training.train", look)
    shares = []
    train_teacher(data, epochs=6, progress_within=shares.append)
    train_teacher(data, epochs=1)
    train_teacher(tiny_data, epochs=6)  # the views of "shift" stay: embedded teachers are what they were
    assert [len(views) for views in seen] == [6, 2, 2]
    assert torch.equal(seen[0][[0, 1, 1], [5, 5, 6]], data.train_views[[0, 1, 1], [5, 5, 6]])
    assert shares == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_a_teacher_in_bfloat16_learns_as_in_float32(tiny_data):
    losses, weights = {}, {}
    for precision in ("float32", "bfloat16"):
        curve = losses[precision] = []
        teacher = train_teacher(
            tiny_data,
            epochs=12,
            architecture="resnet8x0.5",
            settings=TrainingSettings(precision=precision),
            progress=lambda epoch, loss, reached, curve=curve: curve.append(loss),
        )
        weights[precision] = teacher.state_dict()
    assert losses["float32"][-1] < 0.9 * losses["float32"][0]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"] != losses["float32"]
    assert {tensor.dtype for tensor in weights["bfloat16"].values()} == {torch.float32, torch.int64}
