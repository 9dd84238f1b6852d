import pytest
import torch

from vitlab.encoders import Pool, PromptedViT, Prompts, ViT
from vitlab.probes import InferenceConfig
from vitlab.probes.logistic import LinearClassifier
from vitlab.visualization.colors import MAX_CLASSES, apply_palette, class_keys
from vitlab.visualization.masks import compare_masks, draw_probe_grid, predict_masks

LOADING = InferenceConfig(torch.device("cpu"))


@pytest.mark.parametrize("prompted", [False, True])
def test_training_shows_image_features_attention_prediction_and_truth(prompted):
    torch.manual_seed(0)
    model = ViT("nano", 8, 32, num_registers=2, normalizer="entmax15")
    if prompted:
        model = PromptedViT(model, Prompts(shared=2, patches=Pool(3)))
    model.eval()
    images = torch.randint(256, (2, 3, 32, 32)).to(torch.uint8)
    masks = [torch.zeros(50, 40, dtype=torch.uint8), torch.full((8, 8), 255, dtype=torch.uint8)]
    targets = torch.eye(3)[torch.arange(20) % 3]
    classify = LinearClassifier(torch.randn(20, model.embed_dim), targets)
    grid = draw_probe_grid(model, LOADING, images, masks, classify, ["sky", "sea", "land"])
    titles = [column.title for column in grid.columns]
    assert titles == ["image", "PCA of patches", "[CLS] attention", "predicted mask", "true mask"]
    image, colors, attention, prediction, truth = (column.images for column in grid.columns)
    assert torch.equal(image[1], images[1] / 255)
    assert [each.shape for each in (*colors, *attention)] == [(3, 4, 4)] * 4
    with torch.no_grad():
        guess = predict_masks(classify, LOADING.encode(model, images), (32, 32))[0]
    assert torch.equal(prediction[0], apply_palette(guess))
    assert (truth[0] == 0).all()  # VOC's background is black
    assert torch.equal(truth[1], apply_palette(torch.full((32, 32), 255)))
    assert {"sky"} <= {key.text for key in grid.keys} <= {"sky", "sea", "land"}
    assert "max" in [key.text for key in grid.columns[2].legend]  # below its column


def test_a_legend_names_the_classes_that_are_there_the_most_frequent_if_many():
    names = [f"class {index}" for index in range(60)]
    mask = torch.arange(60).repeat_interleave(torch.arange(1, 61)).view(1, -1)
    keys = class_keys([mask, torch.full((1, 9), 255)], names)
    assert [key.text for key in keys[:-1]] == names[60 - MAX_CLASSES :]
    assert keys[-1].text == "and 20 more"
    assert [key.text for key in class_keys([torch.tensor([[7, 3]])], names)] == [names[3], names[7]]


def test_errors_are_where_prediction_and_truth_differ_but_for_void():
    truth = torch.tensor([[0, 1, 255, 2]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 2, 1, 2]], dtype=torch.uint8)
    grid = compare_masks([torch.zeros(3, 1, 4).byte()], [truth], [prediction], ["a", "b", "c"])
    right, wrong, void, same = grid.columns[-1].images[0][:, 0].T
    assert torch.equal(right, same)
    colors = torch.tensor([key.color for key in grid.keys[:3]])
    assert torch.equal(torch.stack([right, wrong, void]), colors)
    assert [key.text for key in grid.keys] == ["right", "wrong", "void", "a", "b", "c"]
