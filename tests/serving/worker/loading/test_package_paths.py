"""Our packages beside those of the user."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.serving.worker.frontend import ROOT, SCRIPT


def run(code: str, *, cwd: Path, options: tuple[str, ...] = ("-S",)) -> str:
    """Return the output of a program in an interpreter where nothing of ours is installed."""
    begin = f"""
        import sys
        sys.argv[0] = {str(SCRIPT)!r}
        import importlib.util
        spec = importlib.util.spec_from_file_location("script", sys.argv[0])
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        script._load_package()
        from pathlib import Path
        from serving.worker.loading import package_paths as places
    """
    program = textwrap.dedent(begin) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, *options, "-c", program], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_package_of_ours_is_found_where_it_is_not_installed(tmp_path: Path) -> None:
    code = """
        before = list(sys.path)
        places.provide("archive_tool")
        from archive_tool import errors
        print(errors.__file__)
        assert sys.path == before
        first = sys.modules["archive_tool"]
        places.provide("archive_tool", always=True)
        assert sys.modules["archive_tool"] is first
    """
    assert run(code, cwd=tmp_path) == str(ROOT / "archive_tool" / "errors.py")


def test_the_users_own_of_that_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "__init__.py").write_text("mine = True\n")
    code = """
        places.provide("handlers")
        import handlers
        print(handlers.mine)
    """
    assert run(code, cwd=tmp_path) == "True"


def test_unless_it_must_be_ours(tmp_path: Path) -> None:
    (tmp_path / "archive_tool.py").write_text("mine = True\n")
    code = """
        places.provide("archive_tool", always=True)
        import archive_tool
        print(archive_tool.__file__)
        places.make_way(Path.cwd())
        import archive_tool, serving
        print(archive_tool.mine, serving.worker.loading.package_paths is places)
    """
    assert run(code, cwd=tmp_path).splitlines() == [str(ROOT / "archive_tool" / "__init__.py"), "True True"]


def test_modules_of_an_archive_with_our_names(tmp_path: Path) -> None:
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "__init__.py").write_text("mine = 'serving'\n")
    (tmp_path / "serving" / "worker.py").write_text("mine = 'worker'\n")
    code = """
        from serving.worker.loading import loader
        from serving.protocol import Load
        places.make_way(Path.cwd())
        import serving.worker
        print(serving.mine, serving.worker.mine, Load("m", "/p").model_name, loader.package_paths is places)
    """
    assert run(code, cwd=tmp_path) == "serving worker m True"


def test_folders_of_an_archive_where_ours_are_installed(tmp_path: Path) -> None:
    """Without __init__.py they come after every package, wherever that lies. The SDK may be needed beside them."""
    for name in ("serving", "archive_tool", "handlers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"name = {name!r}\n")
    code = f"""
        sys.path.append({str(ROOT)!r})
        places.make_way(Path.cwd())
        import archive_tool.mine, handlers.mine, serving.mine
        from handlers import NotSupportedError
        print(archive_tool.mine.name, handlers.mine.name, serving.mine.name, NotSupportedError.__module__)
    """
    assert run(code, cwd=tmp_path) == "archive_tool handlers serving handlers.errors"


def test_an_archive_without_them_leaves_ours(tmp_path: Path) -> None:
    (tmp_path / "serving.txt").touch()
    code = """
        places.make_way(Path.cwd())
        import serving.worker
        print(serving.worker.loading.package_paths is places)
    """
    assert run(code, cwd=tmp_path) == "True"


def test_a_package_that_cannot_be_read_is_missing_and_leaves_nothing(tmp_path: Path) -> None:
    code = """
        for _ in range(2):
            try:
                places.provide("nonesuch", always=True)
            except ImportError as error:
                print(error.name, "nonesuch" in sys.modules)
    """
    assert run(code, cwd=tmp_path).splitlines() == ["nonesuch False"] * 2


OLD_SDK = "home = 'the archive'\nclass BaseHandler: pass\n"


def test_ours_for_a_while_and_the_archives_before_and_after(tmp_path: Path) -> None:
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "__init__.py").write_text(OLD_SDK)
    code = """
        for _ in range(2):
            with places.ours("handlers"):
                from handlers.builtin import TWINS
                assert TWINS["base_handler"] == "BaseHandler"
            print(sorted(name for name in sys.modules if name.partition(".")[0] == "handlers"))
            import handlers
            print(handlers.home)
    """
    assert run(code, cwd=tmp_path).splitlines() == ["[]", "the archive", "['handlers']", "the archive"]


def test_ours_stays_where_it_was_imported(tmp_path: Path) -> None:
    code = """
        places.provide("handlers")
        import handlers.errors
        with places.ours("handlers"):
            import handlers
            assert handlers.errors is sys.modules["handlers.errors"]
        assert "handlers.errors" in sys.modules
    """
    run(code, cwd=tmp_path)


def test_an_archive_runs_with_its_own_sdk(tmp_path: Path) -> None:
    """Also where a part of ours was imported before, by what reads archives."""
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "__init__.py").write_text(OLD_SDK)
    code = """
        places.provide("handlers", always=True)
        import handlers.loading.formats
        places.make_way(Path.cwd())
        import handlers
        print(handlers.home, "handlers.loading" in sys.modules)
    """
    assert run(code, cwd=tmp_path) == "the archive False"


def test_the_sdk_that_an_import_finds_is_imported_once(tmp_path: Path) -> None:
    (tmp_path / "handlers").symlink_to(ROOT / "handlers")
    code = f"""
        sys.path.insert(0, {str(ROOT)!r})
        import handlers.errors
        places.make_way(Path.cwd() / "elsewhere")
        import handlers
        print(sys.modules["handlers.errors"] is handlers.errors)
    """
    assert run(code, cwd=tmp_path) == "True"


def test_a_built_in_handler_of_an_archives_own_sdk(tmp_path: Path) -> None:
    """It is older than the table of built-in handlers."""
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "__init__.py").write_text(OLD_SDK)
    code = """
        from serving.worker.loading import loader
        module, _ = loader.find_handler("base_handler", Path.cwd())
        print(module.BaseHandler.__mro__[1].__module__, sys.modules["handlers"].home)
    """
    assert run(code, cwd=tmp_path) == "handlers the archive"
