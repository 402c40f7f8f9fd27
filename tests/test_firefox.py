"""The page in Firefox, driven through its own protocol (Marionette): the self-test, greedy text and training."""

import json
import shutil
import socket
import subprocess

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast.export.page import page

pytestmark = pytest.mark.slow


class Firefox:
    """A headless Firefox with an empty profile; `run` executes a function's body in the page."""

    def __init__(self, program, profile):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        (profile / "user.js").write_text(f'user_pref("marionette.port", {port});\n')
        command = [program, "--headless", "--marionette", "--no-remote", "--profile", profile]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.count = 0
        lines = iter(self.process.stdout.readline, "")
        assert any("Listening on port" in line for line in lines), "Firefox did not start"
        self.stream = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._read()
        self.call("WebDriver:NewSession", {})

    def _read(self):
        size = b""
        while not size.endswith(b":"):
            size += self.stream.recv(1)
        content = b""
        while len(content) < int(size[:-1]):
            content += self.stream.recv(int(size[:-1]) - len(content))
        return json.loads(content)

    def call(self, name, arguments):
        self.count += 1
        content = json.dumps([0, self.count, name, arguments]).encode()
        self.stream.sendall(str(len(content)).encode() + b":" + content)
        _, _, error, value = self._read()
        assert error is None, error
        return value

    def run(self, script):
        return self.call("WebDriver:ExecuteScript", {"script": script, "args": []})["value"]

    def until(self, expression):
        for _ in range(5000):
            if value := self.run(f"return {expression}"):
                return value
        raise AssertionError(f"never came true: {expression}")

    def close(self):
        self.stream.close()
        self.process.terminate()
        self.process.communicate()


def test_firefox_computes_what_python_does(built_core, tmp_path):
    program = shutil.which("firefox-esr") or shutil.which("firefox")
    if not program:
        pytest.skip("needs Firefox")
    run = mg.train(dtype="float32")
    (tmp_path / "page.html").write_bytes(page(run.model))
    (tmp_path / "profile").mkdir()
    firefox = Firefox(program, tmp_path / "profile")
    try:
        firefox.call("WebDriver:SetWindowRect", {"width": 500, "height": 900})  # the least that Firefox has
        firefox.call("WebDriver:Navigate", {"url": (tmp_path / "page.html").as_uri()})
        assert (
            firefox.until("document.querySelector('#self-test.good, #self-test.bad')?.className")
            == "test good"
        )
        firefox.run("document.querySelector('#tab-train').click()")
        firefox.run(
            "document.querySelector('#pace').value = 'full'; document.querySelector('#train').click()"
        )
        losses = firefox.until(
            "document.querySelector('#final li') && [...window.microgpt.state.trainer.losses]"
        )
        np.testing.assert_allclose(losses, run.losses, atol=1e-4, rtol=0)
        names = firefox.run(
            "return [...document.querySelectorAll('#final li')].map((item) => item.textContent)"
        )
        assert names == mg.generate(run.model, random=run.random)
        assert firefox.run("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        firefox.close()
