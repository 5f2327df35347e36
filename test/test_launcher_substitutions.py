"""The substitutions of launch files: their grammar, their values and what is refused."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

import pytest
from launcher_prefix import PACKAGE, SHOW, expander, make_prefix, words

from vla_nodes.launcher.document import LaunchError


@pytest.fixture
def environment(tmp_path):
    return make_prefix(tmp_path / "prefix")


@pytest.fixture
def run(tmp_path, environment):
    return expander(tmp_path, environment)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("$(env SET)", "value"),
        ("$(env NONE default)", "default"),
        ("$(env NONE 'a b')", "a b"),
        ('$(env NONE "a b")', "a b"),
        ("$(env NONE a$(var x)b)", "a7b"),
        ("$(env NONE 'a $(env NONE $(var x)) b')", "a 7 b"),
        (r"$(env NONE \)\'\()", ")'("),
        ("$(equals $(var x) 7.0)", "true"),
        ("$(equals true 1)", "true"),
        ("$(equals a b)", "false"),
        ("$(not-equals a b)", "true"),
        ("$(and true $(not false))", "true"),
        ("$(or 0 off)", "false"),
        ("$(if $(equals $(var x) 7) 'it is' not)", "it is"),
        ("$(if false a)", ""),
        ("$(eval '$(var x) * 2 + 1')", "15"),
        ("$(eval 'sqrt(4) > 1 and not False')", "True"),
        (r"$(eval '\'$(var x)\'.upper() in [\'7\']')", "True"),
        ("$(eval 'math.floor(2.5) if 1 < 2 else 0')", "2"),
        ("$5 $ (x", "$5 $ (x"),
        (r"\$(x) \\ a", r"$(x) \ a"),
    ],
)
def test_substitutions(run, environment, text, expected):
    environment["SET"] = "value"
    body = f"<let name='v' value={quoteattr(text)}/>"
    assert words(run(f'{body}<node {SHOW} args="$(var v)"/>', x="7")) == [expected]


def test_substitutions_of_places(tmp_path, run):
    prefix = tmp_path / "prefix"
    body = (
        f'<node {SHOW} args="$(find-pkg-share {PACKAGE}) $(find-pkg-prefix {PACKAGE}) '
        '$(dirname) $(filename)"/>'
    )
    assert words(run(body)) == [
        *[str(prefix / "share" / PACKAGE), str(prefix)],
        *[str(tmp_path), str(tmp_path / "main.launch.xml")],
    ]


def test_an_anonymous_name_is_made_once(run):
    first, second = words(run(f'<node {SHOW} args="$(anon a) $(anon a)"/>'))
    assert first == second and first.startswith("a_")


@pytest.mark.parametrize(
    "text, message",
    [
        ("$(var none)", "no launch argument or &lt;let&gt; named 'none'"),
        ("$(env NONE)", r"'NONE' is not set; give a default"),
        ("$(optenv HOME)", r"unknown substitution .*write \$\(env NAME DEFAULT\)"),
        ("$(nope 1)", "unknown substitution"),
        ("$(equals 1)", "'equals' takes 2 arguments"),
        ("$(var a", r"'\)' is missing"),
        ("$(var  a)", "separated by one space"),
        ("$(env A 'b)", "quote ' is not closed"),
        ("$(eval 1+)", "is not a Python expression"),
        ("$(eval '__import__')", "'__import__' is not known"),
        ("$(eval '(1).real')", "not allowed"),
        ("$(find-pkg-share nowhere)", "'nowhere' is not installed .*make setup.*env.sh"),
        (f"$(exec-in-pkg nothing {PACKAGE})", r"no executable 'nothing'.*it has: .*show"),
        ("$(and maybe 1)", "expected true or false, got 'maybe'"),
    ],
)
def test_substitutions_that_are_refused(run, text, message):
    message = message.replace("&lt;", "<").replace("&gt;", ">")
    with pytest.raises(LaunchError, match=f"main.launch.xml:2: <let>: .*{message}"):
        run(f'<let name="v" value="{text}"/>')
