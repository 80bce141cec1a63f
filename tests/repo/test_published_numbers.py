"""The paper's numbers in docs/results.md are those of the paper: PSNR in dB / SSIM, written here by hand."""

PUBLISHED = {
    "noise, sigma 30": ["19.03 / .336", "30.65 / .870", "30.69 / .871", "SADNet 30.64"],
    "JPEG, quality 10": ["25.67 / .719", "27.59 / .785", "27.69 / .786", "QCN 27.66 / .811"],
    "JPEG, quality 50": ["31.51 / .902", "32.93 / .924", "33.20 / .924", "QCN 33.00 / .934"],
    "rain, 100H": ["12.13 / .349", "28.95 / .864", "29.35 / .875", "MSPFN 28.66 / .860"],
    "rain, 100L": ["25.52 / .825", "32.50 / .935", "34.30 / .949", "PreNet 32.44 / .950"],
    "blur": ["25.64 / .790", "29.28 / .877", "30.06 / .894", "DeblurGANv2 29.55 / .934"],
}


def test_the_published_table_is_the_papers(documents):
    (results,) = [document for document in documents if document.path.name == "results.md"]
    rows = results.table("task", "input", "single task", "all tasks, one body", "best other")
    assert {task: cells for task, *cells in rows} == PUBLISHED
