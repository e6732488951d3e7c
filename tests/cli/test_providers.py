"""`keymux providers`."""

from keymux.cli.moments import now_ms
from keymux.core.health import Status
from keymux.core.records import KeyState, ProviderState, Transition
from keymux.stores.port import Batch
from tests.cli.program import CONFIG, Program, backup, key
from tests.cli.test_keys import fall_ill

ONE, TWO, SPARE = "sk-one-012345wxyz", "sk-two-012345abcd", "sk-spare-01234567"


def take_down(keymux: Program, status: Status, reason: str) -> None:
    """Let the provider alpha fail, as a server would note it."""
    until = None if status is Status.QUARANTINED else now_ms() + 60_000
    transition = Transition(
        id="trn_down",
        at=now_ms(),
        actor="server",
        provider="alpha",
        key="",
        model="",
        before=Status.HEALTHY,
        after=status,
        reason=reason,
        provider_state=ProviderState(status, until, reason, generation=1),
    )
    keymux.store(lambda store: store.ledger.write(Batch(transitions=(transition,))))


def test_a_list_tells_how_providers_and_their_keys_are(keymux: Program) -> None:
    """Address, health, keys by state, spare keys."""
    keymux.add_keys(key(ONE), key(TWO))
    keymux.add_backups(backup(SPARE))
    fall_ill(keymux, TWO, KeyState(Status.QUARANTINED, None, "401", generation=1))
    take_down(keymux, Status.ERROR, "503 down")

    alpha, beta = keymux.good("providers", "list").rows

    assert alpha | {"cooldownUntil": ""} == {
        "name": "alpha",
        "kind": "openhands",
        "status": "error",
        "reason": "503 down",
        "cooldownUntil": "",
        "keys": "1 healthy, 1 quarantined",
        "spareKeys": "1",
        "url": "https://llm-proxy.app.all-hands.dev",
    }
    assert alpha["cooldownUntil"].endswith("Z")
    assert (beta["status"], beta["keys"]) == ("healthy", "")


def test_a_list_fits_a_terminal(keymux: Program) -> None:
    """On 80 columns nothing is cut off."""
    keymux.add_keys(key(ONE))
    take_down(keymux, Status.ERROR, "503 with a really long explanation by the provider")

    lines = keymux.screen("providers", "list")

    assert max(map(len, lines)) <= 80
    assert any("alpha" in line and "error" in line for line in lines)


def test_programs_get_a_list_as_json(keymux: Program) -> None:
    """--json has the same fields."""
    keymux.good("init-db")

    found = keymux.good("providers", "list", "--json").json

    assert [row["name"] for row in found] == list(CONFIG["providers"])


def test_a_provider_that_is_blocked_may_be_asked_again(keymux: Program) -> None:
    """Reset ends a block that waits for an operator, and is audited."""
    keymux.good("init-db")
    take_down(keymux, Status.QUARANTINED, "403 region")

    done = keymux.good("providers", "reset", "alpha")

    assert done.out == "alpha: quarantined -> healthy\n"
    assert keymux.good("providers", "list").rows[0]["status"] == "healthy"
    assert keymux.good("audit").rows[0]["action"] == "provider.reset"


def test_programs_read_what_was_reset(keymux: Program) -> None:
    """--json tells before and after."""
    keymux.good("init-db")

    assert keymux.good("providers", "reset", "beta", "--json").json == {
        "name": "beta",
        "before": "healthy",
        "after": "healthy",
    }


def test_an_unknown_provider_is_not_reset(keymux: Program) -> None:
    """The message names those that there are."""
    done = keymux.run("providers", "reset", "gamma")

    assert done.code == 2
    assert "the config has alpha, beta" in done.err
