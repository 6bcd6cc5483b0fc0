"""One connection to a broker: aiomqtt's client, changed where it would lose, drop or block.

Promises: nothing is acknowledged before `acknowledge`, and nothing that came is dropped; reading stops and goes on as
told. Every reason code reaches the caller. Connecting blocks neither the loop nor the end of the process. The broker
keeps the session: messages that were not acknowledged come again at the next connection.

This and `broker_paho` are the only modules that know the insides of aiomqtt and paho.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import aiomqtt
import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from relayd import resolver
from relayd.addressguard import is_literal
from relayd.broker_handshake import connect_properties, welcome_of, will_of
from relayd.broker_paho import Events, PatientPaho
from relayd.broker_settings import ConnectionLost, Settings, Welcome

MISC_SECONDS = 1.0


class Wire(aiomqtt.Client):
    """One connection, from `open` to `close`; `lost` is done when it has ended, with ConnectionLost."""

    def __init__(self, settings: Settings, events: Events) -> None:
        self._settings = settings
        super().__init__(
            settings.host,
            settings.port,
            identifier=settings.client_id,
            username=settings.username,
            password=settings.password,
            protocol=aiomqtt.ProtocolVersion.V5 if settings.is_version_5 else aiomqtt.ProtocolVersion.V311,
            clean_session=None if settings.is_version_5 else not settings.keeps_session,
            clean_start=not settings.keeps_session if settings.is_version_5 else mqtt.MQTT_CLEAN_START_FIRST_ONLY,
            will=will_of(settings.will),
            keepalive=settings.keepalive_seconds,
            timeout=settings.timeout_seconds,
            max_inflight_messages=0x7FFF,
            properties=connect_properties(settings),
            tls_context=settings.tls,
        )
        self._client.__class__ = PatientPaho
        self._paho = cast(PatientPaho, self._client)
        self._paho.attach(events, settings.max_packet_bytes)
        self._valve = self._paho.valve
        self._valve.opened = self._write_on
        self._paho.connect_timeout = settings.timeout_seconds
        self._paho.suppress_exceptions = False
        self.lost: asyncio.Future[ConnectionLost] = self._loop.create_future()
        self._welcome: asyncio.Future[Welcome] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[list[int]]] = {}
        self._is_closed = False

    # --- life

    async def open(self) -> Welcome:
        """Connect and log in. Raises ConnectionLost, OSError, ssl.SSLError or TimeoutError."""
        try:
            if not is_literal(self._settings.host):  # the thread that connects cannot say what it waits for
                await resolver.addresses(self._settings.host, self._settings.port, self._settings.timeout_seconds)
            async with asyncio.timeout(self._settings.timeout_seconds):
                await _in_own_thread(self._client_connect, self._forget_if_closed)
                return await self._welcome
        except BaseException:
            self.close()
            raise

    async def leave(self) -> None:
        """Say goodbye, so that the broker does not publish the will, and close."""
        if not self.lost.done():
            self._paho.disconnect()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    while self._paho.want_write() and not self.lost.done():  # noqa: ASYNC110 - paho tells nobody
                        await asyncio.sleep(0.005)
        self.close()

    def close(self, reason: ConnectionLost | None = None) -> None:
        """End it at once, wherever it is."""
        self._is_closed = True
        self._end(reason or ConnectionLost("closed"))
        self._paho.abandon()

    def _socket(self) -> socket.socket | None:
        return cast("socket.socket | None", self._paho.socket())

    def _is_current(self, sock: object) -> bool:
        return self._paho.socket() is sock

    def _forget_if_closed(self) -> None:
        if self._is_closed:
            self._paho.abandon()

    def _end(self, reason: ConnectionLost) -> None:
        self._valve.close()
        if not self.lost.done():
            self.lost.set_result(reason)
        if not self._welcome.done():
            self._welcome.set_exception(reason)
            self._welcome.exception()  # whoever waits sees it; nobody has to
        waiting, self._answers = self._answers, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(reason)
                answer.exception()

    # --- reading

    def pause(self) -> None:
        """Read nothing more until `resume`; the broker feels it."""
        self._paho.is_paused = True
        sock = self._socket()
        if sock is not None:
            self._loop.remove_reader(sock.fileno())

    def resume(self) -> None:
        self._paho.is_paused = False
        sock = self._socket()
        if sock is not None:
            self._loop.add_reader(sock.fileno(), self._read)
            self._loop.call_soon(self._read)  # what TLS has already decrypted makes no descriptor readable

    def acknowledge(self, acks: Sequence[tuple[int, int]]) -> None:
        """(QoS, packet id), in the order in which they came."""
        self._paho.acknowledge(acks)

    def probe(self) -> bool:
        """Ask the broker for a sign that it has read everything up to here; False: the last one is still out."""
        if not self._paho.next_probe_fits():
            return False
        self._paho.probe()
        return True

    def _read(self) -> None:
        try:
            self._paho.handle_what_came()
            for _ in range(8):
                if self._paho.is_paused:
                    return
                self._paho.loop_read()
                sock = self._socket()
                if not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
                    return
            self._loop.call_soon(self._read)
        except Exception as error:  # noqa: BLE001 - whatever it is, this connection cannot be trusted any more
            self.close(ConnectionLost(f"unexpected {type(error).__name__} while reading: {error}"))

    # --- asking

    async def ask_for(self, pattern: str, *, qos: int, identifier: int | None, retain_handling: int) -> int:
        """Subscribe to one filter; the broker's reason code. Raises ConnectionLost, TimeoutError."""
        if self._settings.is_version_5:
            options = SubscribeOptions(qos=qos, retainHandling=retain_handling)
            properties = Properties(PacketTypes.SUBSCRIBE)  # type: ignore[no-untyped-call]
            if identifier is not None:
                properties.SubscriptionIdentifier = identifier
            rc, mid = self._paho.subscribe(pattern, options=options, properties=properties)
        else:
            rc, mid = self._paho.subscribe(pattern, qos)
        return (await self._answer(rc, mid))[0]

    async def ask_no_more_for(self, pattern: str) -> int:
        """Unsubscribe; the reason code. Raises ConnectionLost, TimeoutError."""
        rc, mid = self._paho.unsubscribe(pattern)
        return ([*await self._answer(rc, mid), 0])[0]

    async def send(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> int:
        """Publish; the reason code of the broker's answer (0 for QoS 0). Raises ConnectionLost, TimeoutError."""
        with self._valve.sending():
            info = self._paho.publish(topic, payload, qos, retain)
            if qos == 0:
                if info.rc:
                    raise ConnectionLost("not connected")
                return 0
            return (await self._answer(info.rc, info.mid))[0]

    async def _answer(self, rc: int, mid: int | None) -> list[int]:
        """While the question is still on its way, however slowly, the answer is waited for: giving up would only send
        it again."""
        if rc or mid is None or self.lost.done():
            raise self.lost.result() if self.lost.done() else ConnectionLost(mqtt.error_string(MQTTErrorCode(rc)))
        answer: asyncio.Future[list[int]] = self._loop.create_future()
        self._answers[mid] = answer
        try:
            end, gone = self._paho.bytes_given(), -1
            while not answer.done():
                before, gone = gone, self._paho.bytes_gone()
                if (gone == before and not self._valve.is_shut) or before >= end:
                    raise TimeoutError
                await asyncio.wait([answer], timeout=self._settings.timeout_seconds)
            return answer.result()
        finally:
            self._answers.pop(mid, None)

    def _answered(self, mid: int, codes: list[int]) -> None:
        answer = self._answers.pop(mid, None)
        if answer is not None and not answer.done():
            answer.set_result(codes)

    # --- what paho calls

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        if reason_code.value >= 0x80:
            self._end(ConnectionLost("the broker refuses the connection", code=reason_code.value))
        elif not self._welcome.done():
            present = bool(flags.session_present)
            self._welcome.set_result(welcome_of(self._settings, is_session_present=present, properties=properties))

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        code = reason_code.value
        if flags.is_disconnect_packet_from_server:
            self._end(ConnectionLost("the broker ended the connection", code=code))
        elif self._paho.tls_error:
            words = self._paho.tls_error.replace("_", " ").lower()
            self._end(ConnectionLost(f"the broker ended TLS ({words})", is_tls=True))
        elif not self._welcome.done():
            self._end(ConnectionLost("the broker closed the connection without an answer"))
        else:
            reasons = {0x81: "it sent what is no MQTT", 0x82: "it sent what is no MQTT", 0x8D: "it fell silent"}
            self._end(ConnectionLost(reasons.get(code, "the connection broke")))

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, reason_codes: Any, properties: Any = None) -> None:
        self._answered(mid, [code.value for code in reason_codes])

    def _on_unsubscribe(self, client: Any, userdata: Any, mid: int, reason_codes: Any, properties: Any = None) -> None:
        self._answered(mid, [code.value for code in reason_codes])

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        self._answered(mid, [reason_code.value])

    def _on_socket_open(self, client: Any, userdata: Any, sock: Any) -> None:
        """Called in the connecting thread."""
        self._loop.call_soon_threadsafe(self._watch, sock)

    def _watch(self, sock: Any) -> None:
        if self._is_current(sock):
            self._loop.add_reader(sock.fileno(), self._read)
            self._misc_task = self._loop.create_task(self._misc(), name=f"keep alive {self._settings.host}")

    def _on_socket_close(self, client: Any, userdata: Any, sock: Any) -> None:
        if self._misc_task is not None:
            self._misc_task.cancel()
        if sock.fileno() > -1:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        """Called in the connecting thread, too."""
        self._loop.call_soon_threadsafe(self._watch_write, sock)

    def _watch_write(self, sock: Any) -> None:
        if self._is_current(sock):
            self._loop.add_writer(sock.fileno(), self._write)

    def _write_on(self) -> None:
        """The valve has opened."""
        sock = self._socket()
        if sock is not None and self._paho.want_write():
            self._loop.add_writer(sock.fileno(), self._write)

    def _on_socket_unregister_write(self, client: Any, userdata: Any, sock: Any) -> None:
        if sock.fileno() > -1:
            self._loop.remove_writer(sock.fileno())

    def _write(self) -> None:
        sock = self._socket()
        if self._valve.is_shut and sock is not None:
            self._loop.remove_writer(sock.fileno())
            return
        try:
            self._paho.loop_write()
        except Exception as error:  # noqa: BLE001 - as for reading
            self.close(ConnectionLost(f"unexpected {type(error).__name__} while writing: {error}"))

    async def _misc(self) -> None:
        while self._paho.loop_misc() == MQTTErrorCode.MQTT_ERR_SUCCESS:  # noqa: ASYNC110 - keep-alive is a matter of time
            await asyncio.sleep(MISC_SECONDS)


async def _in_own_thread(work: Callable[[], None], afterwards: Callable[[], None]) -> None:
    """Run what blocks in a thread that nobody has to wait for; `afterwards` runs in the loop when it is through."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish(error: BaseException | None) -> None:
        afterwards()
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        failure: BaseException | None = None
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it belongs to the one who waits
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(finish, failure)

    threading.Thread(target=run, name="mqtt-connect", daemon=True).start()
    await done
