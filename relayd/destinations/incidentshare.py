"""IncidentShare: files for the stream of a link or a device, and links for live video by SMS and mail.

Promises: nothing at IncidentShare is idempotent, so what is about to be sent is noted first (step `sending`), and taken
back where it is certain that nothing happened. A later try that finds the note open looks before it sends again:

* `media` has a name that no other upload has, so lists show whether it is there. It is sent again only after the site
  has not shown it for `look_for`, and then looked for once more: no file is there twice, unless the site takes longer
  than that to list it, which the receipt says.
* `sms` and `email` leave a mark in the notes, by which lists show them. A site may not list a link without a file, so
  one that is not found may have been sent all the same; without the mark nothing can be looked up for an email. Then,
  and where the site does not let one look, `on_unknown` decides: "retry" sends again, `most_unknown` times at most, and
  the receipt says that there may be two; "ask" leaves it to a person.

The id of the stream that an sms opens is chosen here, the same for every try: a second message leads to the same
stream. An email cannot choose; its stream is read from the answer, or from the lists by the mark.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from pydantic import BaseModel

from relayd import mediatype
from relayd.destinations import incidentshare_api as api
from relayd.destinations.at_most_once import LOOK_EVERY_SECONDS, NoLook
from relayd.destinations.base import Attempt, Destination, Step
from relayd.destinations.incidentshare_models import EmailArguments, IncidentShareConfig, MediaArguments, SmsArguments
from relayd.destinations.incidentshare_once import Once
from relayd.destinations.incidentshare_site import FILES, LINKS, REST, Site
from relayd.errors import DeliveryError, LoginRefused, NotReady, Rejected, TryAgain
from relayd.httpanswer import Answer
from relayd.model import JSON, Finding, Receipt
from relayd.s3form import Form

if TYPE_CHECKING:
    from relayd.surroundings import Surroundings

MOST_LOOKS = 5
"""Looks that show no stream of an email, before one goes on without."""


class IncidentShare(Destination):
    """One site."""

    Config = IncidentShareConfig
    actions: ClassVar[Mapping[str, type[BaseModel]]] = {
        "media": MediaArguments,
        "sms": SmsArguments,
        "email": EmailArguments,
    }
    receipt_fields = frozenset({"stream_id", "id"})
    opens: ClassVar = {"sms": ("stream_id",), "email": ("stream_id",)}
    needs: ClassVar = {"media": "stream_id"}
    spares: ClassVar = {"media": "stream_id"}
    alarms = frozenset({"sms", "email"})

    def __init__(self, name: str, config: IncidentShareConfig, surroundings: Surroundings | None = None) -> None:
        self.name = name
        self._config = config
        self._site = Site(config)
        self._once = Once(config, self._site)

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Receipt: `stream_id`, and `id` of a link where the site gives one; None where it says nothing."""
        match attempt.delivery.action:
            case "media":
                made = await self._media(attempt)
            case "sms":
                made = await self._sms(attempt)
            case _:
                made = await self._email(attempt)
        return Receipt(proof=str(made["proof"]), fields={"stream_id": made["stream_id"], "id": made["id"]})

    async def check(self) -> list[Finding]:
        """Name, TCP, TLS, login, clock, then what shows wrong prefixes and missing permissions."""
        return await self._site.findings(self.name)

    async def close(self) -> None:
        await self._site.close()

    # --- media

    async def _media(self, attempt: Attempt) -> Step:
        item = attempt.item
        stream = self._stream(attempt)
        if item.size_bytes == 0:
            raise Rejected("the file is empty")
        attempt.open_media().close()
        mark = api.upload_mark(item.id, attempt.delivery.id)

        async def send(doubts: int) -> Step:
            answer = await self._upload(attempt, stream)
            proof = f"{answer.where} answered {answer.status} with success"
            return {"stream_id": stream, "id": None, "proof": _said(proof, doubts, "the file may be there twice")}

        async def find(noted: Step, is_last: bool) -> Step | None:
            async for page in self._files(noted, is_last=is_last):
                if api.has_upload(page, mark):
                    return {"stream_id": stream, "id": None, "proof": f"{page.where} lists the file"}
            return None

        async def count(noted: Step) -> int:
            return max([api.uploads(page, mark) async for page in self._files(noted, is_last=False)], default=0)

        return await self._once.bring_about(attempt, "media", send, find, is_absence_certain=True, count=count)

    def _files(self, noted: Step, *, is_last: bool) -> AsyncIterator[Answer]:
        """What the site lists of files since that was noted."""
        query = {**self._once.since(noted, is_last=is_last), "include_older_group_files": "false"}
        return self._site.pages(self._site.files_prefix + FILES, query)

    def _stream(self, attempt: Attempt) -> str:
        """The argument, else the incident's stream, else the device's own."""
        given = attempt.arguments.get("stream_id")
        if given in (None, ""):
            try:
                given = attempt.remote("stream_id")
            except Rejected:
                if self._config.stream_id is None:
                    raise
                given = self._config.stream_id
        return _sendable(given, "stream_id")

    async def _upload(self, attempt: Attempt, stream: str) -> Answer:
        item = attempt.item
        form = Form(
            fields=(),
            part="media_file",
            file_name=api.upload_name(item.name, item.id, attempt.delivery.id),
            content_type=mediatype.plain(item.content_type),
            size_bytes=item.size_bytes,
        )
        path = f"{self._config.path_prefix}{REST}/stream_id/{quote(stream, safe='')}/media_file"
        with attempt.open_media() as media:
            answer = await self._site.call(
                "POST", path, content_type=form.header, body=form.body(media), is_repeatable=False
            )
        if answer.status == 404:
            await self._judge_missing(answer, stream)
        try:
            api.judge(answer, "path_prefix")
            self._success(answer)
        except Rejected as error:
            if item.size_bytes < api.SMALLEST_POST_LIMIT_BYTES or not api.lacks_file(answer):
                raise
            text = (
                f"{error}: the file is too large, {item.size_bytes / 1e6:.0f} MB; PHP drops what exceeds post_max_size"
            )
            raise Rejected(text).harmless() from None
        return answer

    async def _judge_missing(self, answer: Answer, stream: str) -> None:
        """404 is a stream that is not there, or a prefix that is wrong: another path of the same prefix tells."""
        try:
            is_stream_missing = await self._site.is_there(f"{self._config.path_prefix}{LINKS}/latest")
        except DeliveryError as error:  # the upload itself was refused all the same
            raise error.harmless() from None
        if is_stream_missing:
            raise Rejected(f"{answer.refusal()}: the site has no stream {stream[:80]!a}").harmless()
        raise LoginRefused(f"{answer.refusal()}: the API is not there; check url and path_prefix").harmless()

    # --- links

    async def _sms(self, attempt: Attempt) -> Step:
        arguments = dict(attempt.arguments)
        origin = attempt.item.id if attempt.incident is None else attempt.incident.id
        stream = arguments["incident_id"] = _sendable(arguments.get("incident_id") or f"relayd-{origin}", "incident_id")
        return await self._link(attempt, arguments, stream, str(arguments["phone_number"]))

    async def _email(self, attempt: Attempt) -> Step:
        made = await self._link(attempt, dict(attempt.arguments), None, "")
        if made["stream_id"] is not None or not (attempt.incident or attempt.delivery.then):
            return made
        learned = await attempt.step("stream", self._learn_stream, attempt)
        if learned["stream_id"] is None:
            return {**made, "proof": f"{made['proof']}; {learned['note']}"}
        return {**made, "stream_id": learned["stream_id"]}

    async def _link(self, attempt: Attempt, arguments: Mapping[str, JSON], stream: str | None, phone: str) -> Step:
        action = attempt.delivery.action
        mark = self._mark(attempt)
        body = api.json_body(api.link_body(arguments, mark))

        async def send(doubts: int) -> Step:
            path = f"{self._config.path_prefix}{REST}/{action}"
            answer = await self._site.call(
                "POST", path, content_type="application/json", body=body, is_repeatable=False
            )
            api.judge(answer, "path_prefix", can_look=bool(stream or mark))
            found = self._success(answer)
            proof = f"{answer.where} answered {answer.status} with success"
            return {
                "stream_id": api.stream_id(found.get("stream_id")) or stream,
                "id": api.number(found.get("id")),
                "proof": _said(proof, doubts, "the person may have got it twice"),
            }

        async def find(noted: Step, is_last: bool) -> Step | None:
            return await self._find_link(stream, mark, phone, None if is_last else noted)

        return await self._once.bring_about(attempt, action, send, find, is_absence_certain=False)

    async def _find_link(self, stream: str | None, mark: str, phone: str, noted: Step | None) -> Step | None:
        """The link among those since it was noted; with None among all: one without a file may have no date there."""
        if stream is None and not mark:
            raise NoLook("mark_notes is off, so an email cannot be found again")
        since = {} if noted is None else self._once.since(noted, is_last=False)
        async for page in self._site.pages(self._config.path_prefix + LINKS, {"include_media_files": "true", **since}):
            for group in api.groups(page):
                if api.is_link(group, stream, mark, phone):
                    opened = api.stream_id(group.get("stream_id")) or stream
                    return {"stream_id": opened, "id": None, "proof": f"{page.where} lists the link"}
        return None

    async def _learn_stream(self, attempt: Attempt) -> Step:
        """Which stream an email has opened, None with a `note` where that cannot be known."""
        sending = attempt.recall("sending") or {}
        facts = sending.get("facts")
        noted = dict(facts) if isinstance(facts, dict) else sending
        is_last = await attempt.count("unlisted", MOST_LOOKS) >= MOST_LOOKS
        try:
            found = await self._find_link(None, self._mark(attempt), "", None if is_last else noted)
        except (NoLook, TryAgain, LoginRefused) as error:
            if isinstance(error, NoLook) or is_last:
                return {"stream_id": None, "note": f"the stream that it opened cannot be known: {error}"}
            raise
        if found is not None:
            return {"stream_id": found["stream_id"]}
        if is_last:
            return {"stream_id": None, "note": "the site does not list the stream that it opened"}
        raise NotReady(
            "the mail is sent; the site does not list its stream yet", retry_after_seconds=LOOK_EVERY_SECONDS
        )

    def _mark(self, attempt: Attempt) -> str:
        return f"[relayd {attempt.key('link').replace('-', '')[:12]}]" if self._config.mark_notes else ""

    def _success(self, answer: Answer) -> dict[str, JSON]:
        try:
            return api.judge_success(answer)
        except LoginRefused:
            self._site.forget_login()
            raise


def _sendable(given: JSON, name: str) -> str:
    stream = api.stream_id(given)
    if stream is None:
        raise Rejected(f"{name} {str(given)[:40]!a} cannot be part of an address")
    return stream


def _said(proof: str, doubts: int, consequence: str) -> str:
    return f"{proof}; {doubts} earlier answer(s) were lost, so {consequence}" if doubts else proof
