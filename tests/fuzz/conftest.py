def pytest_configure(config):
    config.addinivalue_line("markers", "fuzz: some hundred inputs of each target of the fuzzer")
