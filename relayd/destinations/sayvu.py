"""SayVU: reports in an emergency control center, chat lines and images to them.

Promises: nothing at SayVU is idempotent and nothing can be read back, so a report whose answer is lost is in doubt.
What is about to be sent is noted first (step `sending`), and taken back where it is certain that nothing happened; a
later try that finds it in doubt sends the report again (`on_unknown = "retry"`, at most `most_unknown` times, and only
to a server that answers again), or leaves the matter to a person ("ask"). Chat lines (several go in one call) and
images are sent again after a lost answer, within the same budget: one may appear twice, and then a person looks. What
may have been processed in part (MISSING_REPORTER, MISSING_INPUT_DATA) is never repeated by machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from pydantic import BaseModel

from relayd import httpcheck, mediatype
from relayd.destinations import sayvu_api
from relayd.destinations.at_most_once import Doubt, NoLook, once
from relayd.destinations.base import Attempt, Destination, Step
from relayd.destinations.sayvu_chat import Chat
from relayd.destinations.sayvu_models import (
    Coordinates,
    ImageArguments,
    MessageArguments,
    ReportArguments,
    Reporter,
    SayVUConfig,
)
from relayd.errors import LoginRefused, Rejected, SecretMissing
from relayd.files import safe_name
from relayd.httpanswer import Answer
from relayd.httpclient import HttpClient
from relayd.location import Whereabouts
from relayd.model import JSON, Finding, Receipt
from relayd.s3form import FileBody

if TYPE_CHECKING:
    from relayd.surroundings import Surroundings

WHERE = "the control center"
_KEY = re.compile(r"ak_[!-~]+")


class SayVU(Destination):
    """One control center."""

    Config = SayVUConfig
    actions: ClassVar[Mapping[str, type[BaseModel]]] = {
        "report": ReportArguments,
        "message": MessageArguments,
        "image": ImageArguments,
    }
    receipt_fields = frozenset({"report_id", "public_url"})
    opens: ClassVar = {"report": ("report_id", "public_url")}
    needs: ClassVar = {"message": "report_id", "image": "report_id"}
    alarms = frozenset({"report", "message"})

    def __init__(self, name: str, config: SayVUConfig, surroundings: Surroundings | None = None) -> None:
        self.name = name
        self._config = config
        self._whereabouts = Whereabouts() if surroundings is None else surroundings.whereabouts
        self._client = HttpClient(config)
        self._chat = Chat()
        self._categories: list[sayvu_api.Category] | None = None

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Receipt: `report_id`, and `public_url` where the control center gives one, else None."""
        match attempt.delivery.action:
            case "report":
                return await self._report(attempt)
            case "message":
                return await self._message(attempt)
            case _:
                return await self._image(attempt)

    async def check(self) -> list[Finding]:
        """Name, TCP, TLS, and the list of categories with the key."""
        remedy = "compare api_key, url and categories_path with what the vendor's support gave"
        return await httpcheck.findings(self.name, self._client, self._look, remedy=remedy)

    async def words(self) -> Mapping[str, Sequence[str]]:
        """The categories, and the subcategories that a name alone is enough for."""
        return {"category": sayvu_api.names(await self._list())}

    async def close(self) -> None:
        await self._client.close()

    # --- report

    async def _report(self, attempt: Attempt) -> Receipt:
        made = attempt.recall("report")
        if made is None:
            body, note = await self._body_of_report(attempt)
            made = await self._open(attempt, body, note)
        return Receipt(
            proof=str(made["proof"]), fields={"report_id": made["report_id"], "public_url": made["public_url"]}
        )

    async def _body_of_report(self, attempt: Attempt) -> tuple[bytes, str]:
        """The body, and what was left out of it. Raises Rejected for what cannot be made a report."""
        arguments = ReportArguments.model_validate(dict(attempt.arguments))
        given = arguments.reporter or Reporter()
        reporter, note = sayvu_api.reporter(given.name, given.phone)
        category, unlisted = await self._category_or_fallback(arguments)
        note = "; ".join(filter(None, (note, unlisted)))
        report: dict[str, JSON] = {
            "location": self._place(attempt, arguments.location),
            "category": category,
            "mode": self._config.mode,
        }
        if arguments.description:
            report["description"] = arguments.description
        if reporter:
            report["reporter"] = reporter
        return json.dumps({"data": report}).encode(), note

    def _place(self, attempt: Attempt, given: Coordinates | None) -> dict[str, JSON]:
        """The argument, else the item's fix, the newest fix, or where the device stands."""
        if given is not None:
            return {"x": given.x, "y": given.y}
        item = attempt.item
        fix = item.location or self._whereabouts.at(item.captured_at) or attempt.device.location
        if fix is None:
            raise Rejected(
                "a report needs a location, and neither the item nor the device has one: set [device] location or"
                " location_topic, or the argument location = { x = LONGITUDE, y = LATITUDE }, then `relayd retry`"
            )
        return {"x": fix.longitude, "y": fix.latitude}

    async def _category_or_fallback(self, arguments: ReportArguments) -> tuple[dict[str, JSON], str]:
        """What the control center calls it, and what is to be said of that."""
        try:
            return await self._category(arguments.category, arguments.subcategory), ""
        except Rejected as error:
            fallback = self._config.fallback_category
            if fallback is None:
                raise
            return await self._category(fallback, None), f"as {fallback}, since {error}"

    async def _category(self, category: int | str, subcategory: int | str | None) -> dict[str, JSON]:
        """Ids are sent as they are; names are looked up, in a list that is fetched anew if it lacks them."""
        if sayvu_api.is_id(category) and (subcategory is None or sayvu_api.is_id(subcategory)):
            return sayvu_api.ids(int(category), None if subcategory is None else int(subcategory))
        if self._categories is not None:
            try:
                return sayvu_api.look_up(self._categories, category, subcategory)
            except Rejected:
                self._categories = None
        self._categories = await self._list()
        return sayvu_api.look_up(self._categories, category, subcategory)

    async def _open(self, attempt: Attempt, body: bytes, note: str) -> Step:
        """Nothing can be looked up here: what is in doubt is unknown, and has its budget."""
        terms = replace(self._config.budget(WHERE, attempt), on_unknown=self._config.on_unknown)

        async def send(doubts: int) -> Step:
            return await self._send_report(body, note, doubts)

        return await once(attempt, "report", send, self._look_first, terms=terms)

    async def _send_report(self, body: bytes, note: str, doubts: int) -> Step:
        try:
            answer = await self._send("POST", self._config.reports_path, "application/json", body, is_repeatable=False)
            sayvu_api.judge(answer, "reports_path", believes_gateways=self._config.on_unknown == "retry")
            found = sayvu_api.reference(answer)
        except Rejected:
            self._categories = None
            raise
        proof = [f"{answer.where} answered {answer.status} with report {found['report_id']}"]
        if doubts:
            proof.append(f"{doubts} earlier answer(s) were lost, so the control center may have this report twice")
        if note:
            proof.append(note)
        return {
            "report_id": found["report_id"],
            "public_url": found["public_url"],
            "proof": "; ".join(proof),
        }

    # --- message and image

    async def _message(self, attempt: Attempt) -> Receipt:
        arguments = MessageArguments.model_validate(dict(attempt.arguments))
        report = _report_id(attempt, arguments.report_id)
        path = _filled(self._config.messages_path, report)

        async def send(body: bytes) -> Answer:
            return await self._send("POST", path, "application/json", body, is_repeatable=False)

        said = await self._chat.say(attempt, report, send, self._look_first, self._config.budget(WHERE, attempt))
        return Receipt(proof=str(said["proof"]), fields={"report_id": int(report), "public_url": None})

    async def _image(self, attempt: Attempt) -> Receipt:
        """The inner object as `data`; once more under a root `data` if that is what the server wants."""
        arguments = ImageArguments.model_validate(dict(attempt.arguments))
        report = _report_id(attempt, arguments.report_id)
        data = None if arguments.data is None else sayvu_api.json_object(arguments.data)
        if attempt.item.size_bytes == 0:
            raise Rejected("the file is empty")
        attempt.open_media().close()

        async def send(doubts: int) -> Step:
            answer = await self._upload(attempt, report, data)
            if data is not None and "INPUT_SCHEMA_VIOLATION" in sayvu_api.codes(answer):
                answer = await self._upload(attempt, report, {"data": data})
            sayvu_api.judge(answer, "images_path")
            found = sayvu_api.reference(answer)
            return {"proof": sayvu_api.proof(answer, doubts), "public_url": found["public_url"]}

        made = await once(attempt, "image", send, self._look_first, terms=self._config.budget(WHERE, attempt))
        return Receipt(proof=str(made["proof"]), fields={"report_id": int(report), "public_url": made["public_url"]})

    async def _upload(self, attempt: Attempt, report: str, data: Mapping[str, JSON] | None) -> Answer:
        item = attempt.item
        content_type = mediatype.plain(item.content_type)
        form = sayvu_api.Form(name=safe_name(item.name, item.id), content_type=content_type, data=data)
        with attempt.open_media() as media:
            body = FileBody(form.head(), media, item.size_bytes, form.tail())
            path = _filled(self._config.images_path, report)
            return await self._send("POST", path, form.header, body, is_repeatable=False)

    # --- calls

    async def _look(self) -> None:
        self._categories = await self._list()

    async def _look_first(self, _: Doubt) -> Step | None:
        """Nothing can be looked up, but what was in doubt is not spent on a server that is down: raises NoLook if it
        answers, else what it says."""
        answer = await self._send("GET", self._config.categories_path)
        answer.raise_for_outage()
        raise NoLook("nothing that was sent can be read back")

    async def _list(self) -> list[sayvu_api.Category]:
        answer = await self._send("GET", self._config.categories_path)
        sayvu_api.judge(answer, "categories_path")
        return sayvu_api.categories(answer)

    async def _send(
        self,
        method: str,
        path: str,
        content_type: str | None = None,
        body: bytes | FileBody = b"",
        *,
        is_repeatable: bool = True,
    ) -> Answer:
        headers = {"Accept": "application/json", "Authorization": f"Bearer {self._key()}"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        url = self._client.url(path)
        return await self._client.send(method, url, headers=headers, body=body, is_repeatable=is_repeatable)

    def _key(self) -> str:
        try:
            key = self._config.api_key.reveal()
        except SecretMissing as error:
            raise LoginRefused(f"api_key cannot be had: {error}").harmless() from None
        if _KEY.fullmatch(key) is None:
            raise LoginRefused(
                f"api_key cannot be used: what is in {self._config.api_key.place} is no key: one begins with ak_"
            ).harmless()
        return key


def _report_id(attempt: Attempt, given: int | str | None) -> str:
    found = attempt.remote("report_id") if given is None or given == "" else given
    report = sayvu_api.report_id(found)
    if report is None:
        raise Rejected(f"report_id {str(found)[:40]!a} is no number")
    return str(report)


def _filled(path: str, report: str) -> str:
    return path.replace("{report_id}", quote(report, safe=""))
