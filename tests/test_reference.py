"""Rung 3 against Hugging Face's GPT-2, number by number.

`tests/references/` holds what PyTorch and Hugging Face computed in float64; `make_references.py`
wrote it. So the first tests need neither of them. Those marked `reference` do: they compute it
again, and hand our parameters to their model as they are.

Two numbers agree when |ours - theirs| <= 1e-9 |theirs| + 1e-14. The second part is for slopes that
are 0 but for rounding, such as that of the bias of the keys.
"""

from random import Random

import make_references
import pytest

from tiny_llm import ModernConfig, ModernLanguageModel, cross_entropy
from tiny_llm.fast.tensors import shape
from tiny_llm.model import rows_of

RELATIVE, ABSOLUTE = 1e-9, 1e-14
VARIANTS = ["gpt2_tied", "gpt2_untied"]


def farthest(ours, theirs):
    """How far apart two tensors are at worst, in units of what is allowed."""
    assert shape(ours) == shape(theirs)
    pairs = [pair for rows in zip(rows_of(ours), rows_of(theirs)) for pair in zip(*rows)]
    return max(abs(a - b) / (ABSOLUTE + RELATIVE * abs(b)) for a, b in pairs)


def disagreeing(ours, theirs):
    """The names of the tensors that differ by more than is allowed, or that only one has."""
    assert ours.keys() == theirs.keys()
    return [name for name in theirs if not farthest(ours[name], theirs[name]) <= 1]


def computed(model, contexts, targets):
    logits, cache = model.forward(contexts)
    loss, dlogits = cross_entropy(logits, targets)
    return {"logits": logits, "loss": loss, "gradients": model.backward(dlogits, cache)}


def agree(ours, theirs):
    return (
        farthest(ours["logits"], theirs["logits"]) <= 1
        and farthest([ours["loss"]], [theirs["loss"]]) <= 1
        and disagreeing(ours["gradients"], theirs["gradients"]) == []
    )


@pytest.fixture(params=VARIANTS)
def reference(request):
    return make_references.read(request.param)


@pytest.fixture
def model(reference):
    model = ModernLanguageModel(ModernConfig(**reference["config"]))
    assert model.parameters.keys() == reference["parameters"].keys()
    model.parameters.update(reference["parameters"])
    return model


@pytest.fixture
def results(model, reference):
    return computed(model, reference["contexts"], reference["targets"])


def test_logits_are_those_of_hugging_face(results, reference):
    assert farthest(results["logits"], reference["logits"]) <= 1


def test_loss_is_that_of_hugging_face(results, reference):
    assert farthest([results["loss"]], [reference["loss"]]) <= 1


def test_every_gradient_is_that_of_hugging_face(results, reference):
    assert disagreeing(results["gradients"], reference["gradients"]) == []


def test_a_difference_in_one_number_would_be_noticed(results, reference):
    for name, tensor in reference["gradients"].items():
        row = rows_of(tensor)[-1]
        value, row[-1] = row[-1], row[-1] * (1 + 1e-8) + 1e-13
        assert disagreeing(results["gradients"], reference["gradients"]) == [name]
        row[-1] = value


def test_the_references_exercise_what_is_easily_wrong(reference):
    contexts = reference["contexts"]
    assert len({len(context) for context in contexts}) > 2
    assert max(map(len, contexts)) == reference["config"]["context_length"]
    assert any(len(set(context)) < len(context) for context in contexts)
    weights = reference["parameters"]["h.0.ln_1.weight"], reference["parameters"]["h.1.ln_2.bias"]
    assert all(len(set(vector)) > 1 for vector in weights)


def test_the_stored_files_stay_small():
    files = sorted(make_references.FOLDER.glob("*.json"))
    assert [file.stem for file in files] == sorted(make_references.NAMES)
    assert all(file.stat().st_size < 80_000 for file in files)


# -------------------------------------------------------------------- with PyTorch, Hugging Face


@pytest.fixture
def with_torch():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("tokenizers")


def close(ours, theirs):
    """Whether two pieces of JSON are equal but for rounding."""
    if isinstance(theirs, float):
        return abs(ours - theirs) <= ABSOLUTE + RELATIVE * abs(theirs)
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(close(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    return ours == theirs


@pytest.mark.reference
@pytest.mark.parametrize("name", make_references.NAMES)
def test_the_stored_reference_is_what_pytorch_computes(with_torch, name):
    if name == "gguf":
        pytest.importorskip("gguf")
    assert close(make_references.compute(name), make_references.read(name))


@pytest.mark.reference
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sizes", [(7, 5, 4, 1, 1), (13, 9, 12, 3, 3), (30, 16, 16, 4, 2)])
def test_our_parameters_are_a_state_of_hugging_faces_gpt_2(with_torch, sizes, tied):
    model = ModernLanguageModel(ModernConfig(*sizes, tie_embeddings=tied), seed=1)
    hugging_face = make_references.hugging_face_model(vars(model.config))
    make_references.load_parameters(hugging_face, model.parameters)
    rng = Random(2)
    vocab_size, context_length = sizes[:2]
    contexts = [[rng.randrange(vocab_size) for _ in range(n)] for n in (1, context_length, 3)]
    targets = [rng.randrange(vocab_size) for _ in range(4 + context_length)]
    theirs = make_references.results(hugging_face, contexts, targets)
    assert agree(computed(model, contexts, targets), theirs)
