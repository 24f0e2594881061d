"""QEMU's own library of QMP, at work on a daemon: library.py MONITOR NBD_SOCKET"""
import asyncio
import sys

from qemu.qmp import EventListener, ExecuteError, QMPClient, Runstate

EXPORT = {"type": "nbd", "id": "e", "node-name": "n", "name": "data"}


async def refused(client, class_, command, **arguments):
    try:
        await client.execute(command, arguments)
    except ExecuteError as error:
        assert error.error_class == class_, error
        assert str(error), error
    else:
        raise AssertionError(f"{command} was carried out")


async def main(monitor, socket):
    client, other = QMPClient("first"), QMPClient("second")
    # The greeting is checked, and capabilities are agreed upon.
    await client.connect(monitor)
    await other.connect(monitor)
    assert client.greeting.QMP.version["qemu"]["major"] == 10, client.greeting
    assert (await client.execute("query-version"))["package"].startswith("millpond")
    commands = {command["name"] for command in await client.execute("query-commands")}
    schema = await client.execute("query-qmp-schema")
    assert commands == {entry["name"] for entry in schema if entry["meta-type"] == "command"}

    await refused(client, "GenericError", "blockdev-del", **{"node-name": "none"})
    await refused(client, "GenericError", "blockdev-add", driver="null-co")
    await refused(client, "CommandNotFound", "no-such-command")

    # Each answer finds its question, however many there are.
    asked = [client.execute(command) for command in ["query-version", "query-block-exports"] * 50]
    answers = await asyncio.gather(*asked)
    assert all("qemu" in answer for answer in answers[::2]) and all(answer == [] for answer in answers[1::2])

    deleted = EventListener("BLOCK_EXPORT_DELETED")
    other.register_listener(deleted)
    await client.execute("blockdev-add", {"driver": "null-co", "node-name": "n", "size": 1 << 20})
    await client.execute("nbd-server-start", {"addr": {"type": "unix", "data": {"path": socket}}})
    await client.execute("block-export-add", EXPORT)
    [export] = await other.execute("query-block-exports")
    assert (export["id"], export["node-name"], export["shutting-down"]) == ("e", "n", False), export
    await client.execute("block-export-del", {"id": "e"})
    # Whoever listens is told, whoever asked for it.
    event = await asyncio.wait_for(deleted.get(), 60)
    assert event["data"] == {"id": "e"} and event["timestamp"]["seconds"] > 0, event
    await client.execute("nbd-server-stop")
    await client.execute("blockdev-del", {"node-name": "n"})

    await other.disconnect()
    assert await client.execute("quit") == {}
    await gone(client)
    print("all of it went well")


async def gone(client):
    """The daemon ends the connection: the library tells so when it is disconnected."""
    while client.runstate == Runstate.RUNNING:
        await client.runstate_changed()
    try:
        await client.disconnect()
    except EOFError:
        pass


asyncio.run(main(*sys.argv[1:]))
