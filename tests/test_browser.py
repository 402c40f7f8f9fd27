"""The page in a real Chromium, opened from the disk: it computes what Python does, and shows it on any screen."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast.export.page import page as page_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
WIDTHS = (360, 1280)
HOSTILE = "</script>\n<b>\n&lt;\n<!--\n\u2028\n\"'`\\\n<img/src=x onerror=alert(1)>\n"
TABS = ("write", "train", "inside", "lessons")


def lines(text, **options):
    options = {"num_steps": 200, "dtype": "float32", "learning_rate": 0.005, **options}
    return mg.train(text.splitlines() if isinstance(text, str) else text, **options).model


def stream():
    """A model of the size of nanoGPT's for Shakespeare on a CPU, on this project's own documents."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    sizes = dict(n_layer=4, n_head=4, n_embd=128, block_size=64, batch_size=8)
    return lines([text], data_mode="stream", num_steps=60, learning_rate=0.002, **sizes)


MODELS = {
    "default": (lambda: mg.train(dtype="float32").model, "float32", ["", "ja"]),
    "stream": (stream, "float16", ["", "The "]),
    "hangul": (
        lambda: lines("안녕하세요\n감사합니다\n사랑해요 ❤️\n축하해 🎉🦄\n" * 3),
        "float32",
        ["", "축하"],
    ),
    "bytes": (
        lambda: lines(
            [HOSTILE * 9], data_mode="stream", tokenizer="byte", n_embd=32, n_layer=2, block_size=8
        ),
        "float32",
        ["", "<b>"],
    ),
    "smallest": (lambda: lines("a\na", block_size=1, n_embd=1, n_head=1, num_steps=1), "float32", ["", "a"]),
    "hostile": (lambda: lines(HOSTILE, activation="gelu"), "int8", ["", "<"]),
}


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"] * (os.name == "posix"))
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, tmp_path, built_core):
    """A function that opens a page from the disk; at the end nothing may have been loaded, logged or cut off."""
    faults, contexts = [], []

    def visit(content, width=1280, **options):
        file = tmp_path / f"page{len(contexts)}.html"
        file.write_bytes(content)
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("dialog", lambda dialog: (faults.append("a dialog"), dialog.dismiss()))
        tab.on(
            "request", lambda request: faults.append(request.url) if request.url != file.as_uri() else None
        )
        tab.goto(file.as_uri())
        assert not faults
        tab.wait_for_selector("#self-test.good, #self-test.bad")
        return tab

    yield visit
    for context in contexts:
        context.close()
    # what the page itself makes for saving is no request that leaves it
    assert [fault for fault in faults if not fault.startswith("blob:")] == []


def fits(tab):
    """Whether nothing is wider than the screen."""
    return tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def until(tab, condition):
    """Wait for an expression in the page (whose policy lets no driver evaluate it again and again there)."""
    for _ in range(1500):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(20)
    raise AssertionError(f"never came true: {condition}")


def written(tab):
    """The texts that the page has written, once it has stopped."""
    tab.wait_for_selector("button:has-text('Stop'):disabled")
    return tab.evaluate(
        "[...document.querySelectorAll('#written li')].map((item) => "
        "[...item.children].filter((one) => !one.matches('.end')).map((one) => one.textContent).join(''))"
    )


def write(tab, prompt, temperature, samples, tokens, **others):
    tab.click("#tab-write")
    wanted = {
        "Prompt": prompt,
        "temperature": temperature,
        "samples": samples,
        "most tokens": tokens,
        **others,
    }
    for label, value in wanted.items():
        tab.get_by_label(label, exact=False).first.fill(str(value))
    tab.click("#write")
    return written(tab)


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    make, weights, prompts = MODELS[request.param]
    return make(), weights, prompts


@pytest.mark.parametrize("width", WIDTHS)
def test_it_writes_pythons_text_and_fits_the_screen(case, visit, width):
    model, weights, prompts = case
    tab = visit(
        page_of(model, weights, "<b>name</b> & more"), width, color_scheme="dark" if width < 500 else "light"
    )
    assert tab.get_attribute("#self-test", "class") == "test good"
    assert "<b>name</b> & more" in tab.text_content("#summary")
    restored = model
    if weights != "float32":
        from microgpt_fast.export import expected, page

        single = expected.float32_of(model)
        restored = expected.float32_of(model, page.packed(single, weights)[1])
    for prompt in prompts:
        [text] = mg.generate(restored, 1, temperature=0, prompt=prompt, max_new_tokens=100)
        assert write(tab, prompt, 0, 1, 100) == [text]
    for name in TABS:
        tab.click(f"#tab-{name}")
        assert tab.is_visible(f"#panel-{name}") and fits(tab), name


def test_samples_are_those_of_the_seed(visit):
    model = mg.train(dtype="float32").model
    tab = visit(page_of(model))
    texts = mg.generate(model, 5, temperature=0.8, seed=7, top_k=9, max_new_tokens=20)
    assert write(tab, "", 0.8, 5, 20, **{"seed": 7, "top-k": 9}) == texts


def test_another_character_can_be_chosen(visit):
    tab = visit(page_of(mg.train(dtype="float32").model))
    [before] = write(tab, "", 0, 1, 16)
    tab.click("#written .token >> nth=1")
    tab.click(".bars button:has-text('o')")
    [after] = written(tab)
    assert after[0] == before[0] and after[1] == "o" != before[1]
    tab.focus("#written")
    tab.keyboard.press("ArrowRight")
    assert tab.text_content(".token.chosen") == after[2:3]


def test_bits_per_character_are_those_of_score(visit):
    model = mg.train(dtype="float32").model
    tab = visit(page_of(model))
    tab.fill("#surprise-text", "annabella")
    bits = mg.score(model, ["annabella"]).summary()["bits_per_character"]
    until(tab, f"document.querySelector('#bits').textContent.startsWith('{bits:.2f} bits')")
    assert tab.text_content("#surprise") == "annabella end"
    tab.fill("#surprise-text", "anna?")
    until(tab, "document.querySelector('#bits').textContent.includes('does not know')")


@pytest.mark.parametrize("width", WIDTHS)
def test_it_trains_as_python_does(visit, width, tmp_path):
    run = mg.train(dtype="float32")
    tab = visit(page_of(mg.train(num_steps=0, dtype="float32").model, opens="train"), width)
    tab.select_option("#pace", "full")
    tab.click("#step")
    assert "mignon" in tab.text_content("#panel-train code").replace(" ", "")
    tab.click("#train")
    tab.wait_for_selector("#final li")
    np.testing.assert_allclose(tab.evaluate("microgpt.state.trainer.losses"), run.losses, atol=1e-4, rtol=0)
    names = tab.evaluate("[...document.querySelectorAll('#final li')].map((item) => item.textContent)")
    assert names == mg.generate(run.model, random=run.random)
    assert fits(tab)

    with tab.expect_download() as download:
        tab.click("text=Save .safetensors")
    download.value.save_as(tmp_path / "model.safetensors")
    model = mg.load(tmp_path / "model.safetensors")
    np.testing.assert_allclose(model.parameters, run.model.parameters, atol=1e-3)

    with tab.expect_download() as download:
        tab.click("text=Save as a page")
    download.value.save_as(tmp_path / "saved.html")
    again = visit((tmp_path / "saved.html").read_bytes(), width)
    assert again.get_attribute("#self-test", "class") == "test good"
    assert write(again, "", 0, 1, 16) == mg.generate(model, 1, temperature=0)


def test_a_page_saved_from_hostile_text_is_right_too(visit, tmp_path):
    tab = visit(page_of(mg.train(num_steps=0, dtype="float32").model, opens="train"))
    tab.check("text=my own text")
    tab.fill("#own-text", HOSTILE)
    tab.get_by_label("It is").select_option("lines")
    tab.fill("#num_steps", "100")
    tab.select_option("#pace", "full")
    tab.click("#train")
    tab.wait_for_selector("#final li")
    with tab.expect_download() as download:
        tab.click("text=Save as a page")
    download.value.save_as(tmp_path / "saved.html")
    again = visit((tmp_path / "saved.html").read_bytes())
    assert again.get_attribute("#self-test", "class") == "test good"
    (tmp_path / "text").write_text(HOSTILE, encoding="utf-8")
    run = mg.train(tmp_path / "text", num_steps=100, dtype="float32")
    chars = again.evaluate("microgpt.state.current.tokenizer.chars")
    assert chars == run.model.tokenizer.chars
    assert write(again, "", 0, 1, 16) == mg.generate(run.model, 1, temperature=0)


def test_training_can_be_paused_and_the_other_views_follow(visit):
    tab = visit(page_of(mg.train(num_steps=0, dtype="float32").model, opens="train"))
    tab.click("#train")
    until(tab, "microgpt.state.trainer?.step > 20")
    tab.click("#train")
    step = tab.evaluate("microgpt.state.trainer.step")
    tab.click("#tab-inside")
    assert f"{step} steps" in tab.text_content("#summary")
    assert tab.locator(".map canvas").count() == 4
    tab.fill("#inside-text", "emma")
    until(tab, "document.querySelectorAll('#panel-inside .strip')[0].textContent === 'bosemma'")
    rows = tab.evaluate(
        "(() => { const { model, tokenizer } = microgpt.state.current;"
        "const { N, layers } = model.inside([tokenizer.bos, ...tokenizer.encode('emma')]);"
        "return Array.from({ length: 4 * N }, (_, row) => layers[0].attention.slice(row * N, row * N + N)"
        ".reduce((sum, p) => sum + p, 0)); })()"
    )
    np.testing.assert_allclose(rows, 1, atol=1e-5)
    tab.click("#tab-train")
    assert tab.evaluate("microgpt.state.trainer.step") == step


def test_a_model_inside_is_the_model(visit):
    """The last stage of the residual stream times lm_head is the logits, and attention is softmax of q k."""
    model = mg.train(["abcabc", "cab"], num_steps=50, n_layer=2, n_embd=20, n_head=5, dtype="float32").model
    tab = visit(page_of(model))
    ids = [model.tokenizer.bos, *model.tokenizer.encode("abca").tolist()]
    found = tab.evaluate(
        "(ids) => { const { logits, stages, layers } = microgpt.state.current.model.inside(ids); return "
        "{ logits: [...logits], stages: stages.map((x) => [...x]), attention: layers.map((l) => [...l.attention]) } }",
        ids,
    )
    logits = model.logits(ids)
    np.testing.assert_allclose(np.reshape(found["logits"], logits.shape), logits, atol=1e-5)
    x = np.reshape(found["stages"][-1], (5, 20))
    np.testing.assert_allclose(x @ model.tensors["lm_head"].T, logits, atol=1e-4)

    def rms(x):
        return x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5)

    for layer in range(2):
        x = rms(np.reshape(found["stages"][2 * layer], (5, 20)))
        q, k = (x @ model.tensors[f"layer{layer}.attn_w{name}"].T for name in "qk")
        scores = np.einsum("ihd,jhd->hij", q.reshape(5, 5, 4), k.reshape(5, 5, 4)) / 2
        weights = np.exp(scores) * np.tri(5)
        weights /= weights.sum(2, keepdims=True)
        np.testing.assert_allclose(np.reshape(found["attention"][layer], (5, 5, 5)), weights, atol=1e-5)


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"n_embd": 4096}, "too large for a page"),
        ({"n_layer": 10**9}, "too large for a page"),
        ({"n_embd": 15}, "multiple of n_head"),
        ({"block_size": 0}, "at least 1"),
        ({"learning_rate": "-1"}, "above 0"),
        ({"num_steps": 1.5}, "whole number"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be_trained_are_a_message(visit, fields, reason):
    tab = visit(page_of(mg.train(num_steps=0, dtype="float32").model, opens="train"))
    for name, value in fields.items():
        tab.fill(f"#{name}", str(value))
    tab.click("#train")
    until(tab, f"document.querySelector('#train-message').textContent.includes('{reason}')")
    tab.fill("#n_embd", "16")


def test_texts_of_one_character_and_of_ten_megabytes(visit):
    tab = visit(page_of(mg.train(num_steps=0, dtype="float32").model, opens="train"))
    tab.check("text=my own text")
    tab.select_option("#pace", "full")
    tab.click("#train")
    until(tab, "document.querySelector('#train-message').textContent.includes('nothing to train on')")
    tab.fill("#num_steps", "20")
    for mode in ("lines", "stream"):
        tab.fill("#own-text", "")
        tab.get_by_label("It is").select_option(mode)
        tab.fill("#own-text", "a")
        tab.click("#train")
        tab.wait_for_selector("#final li")
    tab.get_by_label("It is").select_option("auto")
    tab.evaluate(
        "() => { const data = new DataTransfer(); data.setData('text/plain', 'to be or not\\n'.repeat(770000));"
        "document.querySelector('#own-text').dispatchEvent(new ClipboardEvent('paste', "
        "{ clipboardData: data, bubbles: true, cancelable: true })) }"
    )
    assert tab.input_value("#own-text").startswith("to be or not\n")
    tab.click("#train")
    until(tab, "microgpt.state.trainer.documents.length === 770000 && microgpt.state.trainer.isDone")


def test_a_diverging_training_is_a_message(visit):
    tab = visit(page_of(mg.train(num_steps=0, dtype="float32").model, opens="train"))
    tab.fill("#learning_rate", "1e30")
    tab.select_option("#pace", "full")
    tab.click("#train")
    until(tab, "document.querySelector('#train-message').textContent.includes('diverged')")


def test_a_damaged_page_shows_a_red_line(visit):
    content = page_of(mg.train(num_steps=3, dtype="float32").model).decode()
    other = page_of(mg.train(num_steps=4, dtype="float32").model).decode()

    def weights(text):
        return text[text.index('id="weights">') :].split("<")[0]

    tab = visit(content.replace(weights(content), weights(other)).encode())
    assert tab.get_attribute("#self-test", "class") == "test bad"


def test_keyboard_and_names(visit):
    tab = visit(page_of(mg.train(num_steps=0, dtype="float32").model))
    tab.focus("#tab-write")
    for name in (*TABS[1:], TABS[0]):
        tab.keyboard.press("ArrowRight")
        assert tab.get_attribute(f"#tab-{name}", "aria-selected") == "true" and tab.is_visible(
            f"#panel-{name}"
        )
        unnamed = tab.evaluate(
            "[...document.querySelectorAll('button, input, select, textarea, canvas, svg[role=img]')]"
            ".filter((node) => node.checkVisibility() && !node.labels?.length && !node.textContent.trim()"
            " && !node.getAttribute('aria-label'))"
            ".map((node) => node.outerHTML.slice(0, 90))"
        )
        assert unnamed == []


def test_pictures(visit):
    """Those of docs/browser.md, in build/web."""
    model, weights, _ = MODELS["stream"][0](), *MODELS["stream"][1:]
    for name, content, height in (
        ("write", page_of(mg.train(dtype="float32").model, name="names.safetensors"), 730),
        ("inside", page_of(model, weights, name="docs.safetensors"), 1310),
    ):
        tab = visit(content, 1120)
        tab.click(f"#tab-{name}")
        if name == "inside":
            tab.fill("#inside-text", "The model that trains")
            until(tab, "document.querySelectorAll('#panel-inside .strip button').length === 22")
        else:
            written(tab)
        path = ROOT / "build" / "web" / f"browser-{name}.png"
        tab.set_viewport_size({"width": 1120, "height": height})
        tab.screenshot(path=path)
        assert path.stat().st_size > 20_000
