import pytest

from tasks.export.names import labels, stem


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["integrated_gradients", "gradcam"], ["integratedGradients", "gradcam"]),
        (["a b", "aB", "a_b", "aB"], ["aB", "aB2", "aB3", "aB2"]),
        (["", "x", ""], ["", "x", ""]),
        (["å", "-"], ["x", "x2"]),
        (["A", "a"], ["A", "a2"]),  # on file systems that know no case
    ],
)
def test_different_names_have_different_labels(names: list[str], found: list[str]) -> None:
    assert labels(names) == found


@pytest.mark.parametrize(("id", "found"), [("3f2a", "3f2a"), ("a/b 1.nii#2", "a-b-1-nii-2"), ("..", "case")])
def test_a_stem_holds_nothing_that_a_file_cannot_be_named(id: str, found: str) -> None:
    assert stem(id) == found


def test_the_longest_names_are_names_of_files_and_differ() -> None:
    first, second = labels(["a very long explainer " * 9 + "one", "a very long explainer " * 9 + "two"])
    assert first != second and max(len(first), len(second)) < 40 and len(stem("an id " * 60)) <= 64
