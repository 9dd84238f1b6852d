import torch

from vitlab.encoders import Pool, PromptedViT, Prompts, ViT
from vitlab.probes import InferenceConfig
from vitlab.probes.logistic import LinearClassifier
from vitlab.visualization.masks import (
    MAX_CLASSES,
    class_keys,
    compare_masks,
    draw_probe_grid,
    predict_masks,
)

LOADING = InferenceConfig(torch.device("cpu"))


def encoder(**options):
    torch.manual_seed(0)
    return ViT("nano", 8, 32, **options).eval()


def classify(model, classes=3):
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(20, model.embed_dim, generator=drawn)
    return LinearClassifier(
        x, torch.nn.functional.one_hot(torch.arange(20) % classes, classes).float()
    )


def images():
    drawn = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    return drawn.to(torch.uint8)


MASKS = [torch.zeros(50, 40, dtype=torch.uint8), torch.full((8, 8), 255, dtype=torch.uint8)]


def test_what_training_shows_is_the_same_each_time_for_every_encoder_with_attention():
    models = {
        "plain": encoder(),
        "registers and zeros": encoder(num_registers=2, normalizer="entmax15"),
        "prompted": PromptedViT(encoder(), Prompts(shared=2, patches=Pool(3))).eval(),
    }
    for name, model in models.items():
        made = [
            draw_probe_grid(
                model, LOADING, images(), MASKS, classify(model), ["sky", "sea", "land"]
            ).render()
            for _ in range(2)
        ]
        assert torch.equal(*made), name


def test_pictures_of_a_sheet_hold_image_truth_and_prediction():
    model = encoder()
    sheet = draw_probe_grid(model, LOADING, images(), MASKS, classify(model))
    titles = [column.title for column in sheet.columns]
    assert titles == ["image", "PCA of patches", "[CLS] attention", "predicted mask", "true mask"]
    assert torch.equal(sheet.columns[0].images[1], images()[1] / 255)
    with torch.no_grad():
        guess = predict_masks(classify(model), LOADING.encode(model, images()), (32, 32))[0]
    assert set(guess.unique().tolist()) <= {0, 1, 2}
    assert sheet.columns[3].images[0].shape == (3, 32, 32)
    assert (sheet.columns[4].images[0] == 0).all()  # VOC's background is black


def test_a_legend_names_the_classes_that_are_there_the_most_frequent_if_many():
    names = [f"class {index}" for index in range(60)]
    mask = torch.arange(60).repeat_interleave(torch.arange(1, 61)).view(1, -1)
    keys = class_keys([mask, torch.full((1, 9), 255)], names)
    assert [name for _, name in keys[:-1]] == names[60 - MAX_CLASSES :]
    assert keys[-1][1] == "and 20 more"
    assert [name for _, name in class_keys([torch.tensor([[7, 3]])], names)] == [names[3], names[7]]


def test_errors_are_where_prediction_and_truth_differ_but_for_void():
    truth = torch.tensor([[0, 1, 255, 2]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 2, 1, 2]], dtype=torch.uint8)
    image = torch.zeros(3, 1, 4, dtype=torch.uint8)
    shown = compare_masks([image], [truth], [prediction], ["a", "b", "c"]).columns[-1].images[0]
    right, wrong, void, same = shown[:, 0].T
    assert torch.equal(right, same)
    assert len({tuple(each.tolist()) for each in (right, wrong, void)}) == 3
