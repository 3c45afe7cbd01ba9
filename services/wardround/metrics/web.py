"""What the metrics service answers over HTTP: experiments, figures, sites, and all that is said, as it is said."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from wardround.metrics.catalogue import FIGURES_PREFIX
from wardround.metrics.page import PAGE_HEADERS, SCRIPT, page
from wardround.metrics.service import MetricsService
from wardround.metrics.site_row import SiteRow, site_rows
from wardround.metrics.streaming import Streams
from wardround.metrics.summary import Summary, newest
from wardround.metrics.view import ExperimentView
from wardround.runtime.http_guard import refusal
from wardround.runtime.store.port import NotFoundError, ObjectInfo, ObjectStore, StoreUnavailableError
from wardround_messages.names import EXPERIMENT_MAX, ROUND_MAX, FiguresKey, bucket_of, is_id, parse_key

LISTED_AT_MOST = 500
SHOWN_AT_MOST = 100
ANSWERS_WITHIN = 20.0  # seconds
PIECE = 2**20
NO_ID = f"not the id of an experiment: at most {EXPERIMENT_MAX} of a-z, 0-9 and single dashes"

Page = Callable[[Request], Awaitable[Response]]

_SUMMARY = TypeAdapter(Summary)
_VIEW = TypeAdapter(ExperimentView)
_SITE = TypeAdapter(SiteRow)
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


class BadRequestError(ValueError):
    """What was asked for cannot be; the message says what can."""


def routes(service: MetricsService) -> Sequence[BaseRoute]:
    """The pages of a metrics service."""
    web = Web(service)
    return (
        Route("/", _answering(web.page)),
        Route("/page.js", web.script),
        Route("/experiments", _answering(web.experiments)),
        Route("/experiments/{experiment}", _answering(web.experiment)),
        Route("/experiments/{experiment}/figures", _answering(web.rounds)),
        Route("/experiments/{experiment}/figures/{round}", _answering(web.figures)),
        Route("/sites", _answering(web.sites)),
        Route("/events", _answering(web.events)),
    )


class Web:
    """One page a method. What a page is made of is read from the service and never changed there."""

    def __init__(self, service: MetricsService) -> None:
        self._service = service
        self._streams = Streams()

    async def experiments(self, request: Request) -> Response:
        """In the order of their names, `limit` at once; `next` is the `after` of the following ones."""
        after = request.query_params.get("after", "")
        limit = min(_number(request, "limit") or LISTED_AT_MOST, LISTED_AT_MOST)
        names = [name for name in self._service.names if name > after]
        found = [await self._service.summary(name) for name in names[:limit]]
        return JSONResponse(
            {
                "experiments": [_SUMMARY.dump_python(each, mode="json") for each in found if each is not None],
                "next": names[limit - 1] if len(names) > limit else None,
            }
        )

    async def experiment(self, request: Request) -> Response:
        view = await self._service.experiment(_experiment(request))
        if view is None:
            raise NotFoundError
        return Response(_VIEW.dump_json(view), media_type="application/json")

    async def rounds(self, request: Request) -> Response:
        """The rounds that there are figures of."""
        experiment = _experiment(request)
        listed = await self._service.store.list(bucket_of(experiment), FIGURES_PREFIX)
        rounds = [key.round for info in listed if isinstance(key := parse_key(info.key), FiguresKey)]
        return JSONResponse({"experiment": experiment, "rounds": rounds})

    async def figures(self, request: Request) -> Response:
        """The object as it lies in the store, piece by piece: figures of 1,000 sites have megabytes."""
        bucket, number = bucket_of(_experiment(request)), request.path_params["round"]
        if not _NUMBER.fullmatch(number) or int(number) > ROUND_MAX:
            raise BadRequestError(f"a round is a number up to {ROUND_MAX}")
        store = self._service.store
        info = await store.head(bucket, str(FiguresKey(int(number))))
        first = await store.read(bucket, info.key, length=PIECE)
        if len(first) == PIECE:
            await _unchanged(store, bucket, info)
        return StreamingResponse(_pieces(store, bucket, info, first), media_type="application/json")

    async def sites(self, _: Request) -> Response:
        rows = site_rows(self._service.board.sites, self._service.clock())
        return JSONResponse({"sites": [_SITE.dump_python(row, mode="json") for row in rows]})

    async def events(self, request: Request) -> Response:
        """From after `Last-Event-ID`, or from `from`, or from now on; with `experiment`, those of that one alone."""
        experiment = request.query_params.get("experiment")
        if experiment is not None and not is_id(experiment, EXPERIMENT_MAX):
            raise BadRequestError(NO_ID)
        last = request.headers.get("last-event-id", "")
        offset = int(last) + 1 if _NUMBER.fullmatch(last) else _number(request, "from")
        return self._streams.stream(
            self._service.events(offset), experiment=experiment, closing=request.app.state.closing
        )

    async def page(self, _: Request) -> Response:
        board = self._service.board
        shown = newest(board.experiments.values(), at_most=SHOWN_AT_MOST)
        return HTMLResponse(page(shown, site_rows(board.sites, self._service.clock())), headers=PAGE_HEADERS)

    async def script(self, _: Request) -> Response:
        return Response(SCRIPT, media_type="text/javascript")


def _answering(answer: Page) -> Page:
    """What cannot be answered gets a status and a reason."""

    async def answered(request: Request) -> Response:
        try:
            async with asyncio.timeout(ANSWERS_WITHIN):
                return await answer(request)
        except BadRequestError as error:
            return refusal(400, "bad_request", str(error))
        except NotFoundError:
            return refusal(404, "not_found", "there is no such experiment, or no such round in it")
        except (StoreUnavailableError, TimeoutError):
            return refusal(503, "store_away", "the object store does not answer; try again", {"Retry-After": "5"})

    return answered


def _experiment(request: Request) -> str:
    name = str(request.path_params["experiment"])
    if not is_id(name, EXPERIMENT_MAX):
        raise BadRequestError(NO_ID)
    return name


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise BadRequestError(f"{name} is not a number")
    return int(text)


async def _pieces(store: ObjectStore, bucket: str, info: ObjectInfo, first: bytes) -> AsyncIterator[bytes]:
    yield first
    for offset in range(PIECE, info.size, PIECE):
        piece = await store.read(bucket, info.key, offset=offset, length=PIECE)
        await _unchanged(store, bucket, info)
        yield piece


async def _unchanged(store: ObjectStore, bucket: str, info: ObjectInfo) -> None:
    if (await store.head(bucket, info.key)).etag != info.etag:
        raise StoreUnavailableError("the figures were written anew while they were read: ask again")
