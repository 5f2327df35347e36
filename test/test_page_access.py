"""Who may open the operator page, over real HTTP: outsiders, other sites, TLS and the token."""

from __future__ import annotations

import re
from pathlib import Path

import aiohttp
import pytest
from page_robot import LOCAL, PageClient, run, self_signed, served

from vla.core.resources import shared_file
from vla.page.access import AccessError, is_local, make_access
from vla.page.episodes import EpisodeShelf

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def shelf(tmp_path, contract):
    shelf = EpisodeShelf(tmp_path / "bags")
    yield shelf
    shelf.close()


@pytest.fixture
def guarded(tmp_path):
    """Access from anywhere, with a token and TLS."""
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    certificate, key = self_signed(tmp_path)
    return make_access("0.0.0.0", ["127.0.0.1", "robot.lab"], str(token), certificate, key)


def test_loopback_is_this_machine():
    assert is_local("127.0.0.1") and is_local("127.8.0.1") and is_local("::1")
    assert is_local("localhost")
    assert not is_local("0.0.0.0") and not is_local("::") and not is_local("192.168.1.5")
    assert not is_local("localhost.evil.example") and not is_local("")


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.5", "robot.lab", "::", ""])
def test_others_are_let_in_with_a_token_and_tls_alone(tmp_path, address):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with pytest.raises(AccessError, match=r"others could reach.*'token_file' and 'tls_cert"):
        make_access(address, ["robot.lab"], "", "", "")
    with pytest.raises(AccessError, match="give 'tls_certificate' and 'tls_key', or listen"):
        make_access(address, ["robot.lab"], str(token), "", "")
    with pytest.raises(AccessError, match="give 'token_file', or listen"):
        make_access(address, ["robot.lab"], "", "c.pem", "k.pem")
    made = make_access(address, ["robot.lab"], str(token), "c.pem", "k.pem")
    assert made.scheme == "https" and "robot.lab" in made.hosts and "localhost" not in made.hosts


def test_the_url_is_one_that_a_browser_can_open(guarded):
    assert LOCAL.url(8080) == "http://127.0.0.1:8080/"
    assert make_access("::1", [], "", "", "").url(80) == "http://[::1]:80/"
    assert guarded.url(443) == "https://127.0.0.1:443/"


def test_settings_that_do_not_fit_are_named(tmp_path):
    short = tmp_path / "token"
    short.write_text("1234")
    with pytest.raises(AccessError, match="at least 24 ASCII characters"):
        make_access("127.0.0.1", [], str(short), "", "")
    with pytest.raises(AccessError, match="together, or neither"):
        make_access("127.0.0.1", [], "", "c.pem", "")
    with pytest.raises(AccessError, match=r"cannot read .*none"):
        make_access("127.0.0.1", [], str(tmp_path / "none"), "", "")
    short.write_text(TOKEN)
    with pytest.raises(AccessError, match="as 'hosts'"):
        make_access("0.0.0.0", [""], str(short), "c.pem", "k.pem")
    unfit = make_access("127.0.0.1", [], "", str(short), str(short))
    with pytest.raises(AccessError, match="give both in PEM"):
        unfit.tls()


def test_an_outsider_without_the_token_gets_nothing(shelf, guarded):
    async def work():
        async with served(shelf, guarded) as (client, robot):
            for path in ("/page.js", "/page.css", "/api/episodes", "/video/x", "/nothing", "/live"):
                assert (await client.get(path)).status == 401, path
            first = await client.get("/")
            assert first.status == 401
            login = shared_file("config/page/login.html").read_text()
            assert first.body.decode() == login
            for command in ("emergency_stop", "stop", "take", "instruct", "unknown"):
                assert (await client.send(command, {"text": "go"}))[0] == 401
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.open()
            assert refused.value.status == 401
            for wrong in (f"Bearer {TOKEN[:-1]}", "Bearer", f"Basic {TOKEN}", TOKEN, "Bearer ü"):
                assert (await client.get("/page.js", Authorization=wrong)).status == 401
            for cookie in ("vla_page=", "vla_page=" + "0" * 64, f"vla_page={TOKEN}"):
                assert (await client.get("/page.js", Cookie=cookie)).status == 401
            assert not robot.done and not robot.pictures

    run(work())


def test_the_token_opens_the_page_as_a_form_and_as_a_bearer(shelf, guarded):
    async def work():
        async with served(shelf, guarded) as (client, robot):
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            assert (await client.get("/page.js", **bearer)).status == 200
            login = f"{client.url}/login"
            async with client.session.post(login, data={"token": "wrong"}, ssl=False) as answer:
                assert answer.status == 403 and not answer.cookies
            async with client.session.post(
                login, data={"token": TOKEN}, ssl=False, allow_redirects=False
            ) as answer:
                cookie = answer.headers["Set-Cookie"]
                assert answer.status == 303 and TOKEN not in cookie
                assert {"HttpOnly", "Secure", "SameSite=Strict"} <= set(cookie.split("; "))
            assert (await client.get("/")).status == 200
            await client.open()
            assert (await client.send("emergency_stop"))[0] == 200
            assert [command.name for command in robot.done] == ["emergency_stop"]

    run(work())


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Host": "evil.example"}, "not served under the name 'evil.example'"),
        ({"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}, "not served under"),
        ({"Host": "127.0.0.1.evil.example"}, "not served under"),
        ({"Host": "["}, "not served under"),
        ({"Origin": "http://evil.example"}, "of another site, 'http://evil.example'"),
        ({"Origin": "null"}, "of another site"),
        ({"Origin": "http://127.0.0.1:1"}, "of another site"),
        ({"Sec-Fetch-Site": "cross-site"}, "another site has caused"),
        ({"Sec-Fetch-Site": "same-site"}, "another site has caused"),
    ],
)
def test_other_sites_are_refused_on_every_path(shelf, headers, said):
    async def work():
        async with served(shelf) as (client, robot):
            for path in ("/", "/page.js", "/api/episodes"):
                answer = await client.get(path, **headers)
                assert answer.status == 403 and said in answer.json()["message"]
            status, answer = await client.send("stop", **headers)
            assert status == 403 and said in answer["message"]
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.open(**headers)
            assert refused.value.status == 403
            assert not robot.done

    run(work())


def test_the_page_itself_and_programs_are_let_in(shelf):
    async def work():
        async with served(shelf) as (client, _):
            own = {"Origin": client.url, "Sec-Fetch-Site": "same-origin"}
            assert (await client.get("/", **own)).status == 200
            await client.open(**own)
            assert (await client.send("stop", **own))[0] == 200
            localhost = client.url.replace("127.0.0.1", "localhost")
            named = {"Host": localhost.removeprefix("http://"), "Origin": localhost}
            assert (await client.get("/", **named)).status == 200

    run(work())


def test_every_answer_is_strict_about_what_a_browser_may_run(shelf):
    async def work():
        async with served(shelf) as (client, _):
            for path in ("/", "/page.js", "/page.css", "/api/episodes", "/nothing", "/video/x"):
                answer = await client.get(path)
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy and "unsafe" not in policy
                assert "frame-ancestors 'none'" in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"

    run(work())


def test_the_files_fetch_nothing_from_elsewhere_and_write_no_html():
    folder = shared_file("config/page")
    script = (folder / "page.js").read_text()
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert sink not in script
    for path in Path(folder).iterdir():
        text = path.read_text()
        assert not re.findall(r"https?://", text), path
        assert not re.findall(r"\s(on\w+|style)=", text) or path.suffix == ".js", path


def test_a_token_may_guard_this_machine_too(shelf, tmp_path):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    access = make_access("127.0.0.1", [], str(token), "", "")
    assert LOCAL.knows("", "") and not access.knows("", "")

    async def work():
        async with served(shelf, access) as (client, _):
            assert (await client.get("/page.js")).status == 401
            other = PageClient(client.session, client.url)
            assert (await other.get("/", Authorization=f"bearer {TOKEN}")).status == 200

    run(work())
