"""Admin routes for datasets: counts, examples and rejected rows."""

from __future__ import annotations

from aiohttp import web

from adapters.admin.guard import Route
from adapters.admin.json_values import json_response, number_in_query
from bot.access.roles import Actor
from bot.errors import InvalidInput, NotFound
from storage import datasets
from storage.learning_values import Dataset
from storage.scope import Scope

PAGE = 20


class DatasetsApi:
    """Handlers: viewers see counts, agents also the texts."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/admin/api/datasets", "viewer", self.datasets),
            Route("GET", "/admin/api/datasets/{id}", "viewer", self.dataset),
            Route("GET", "/admin/api/datasets/{id}/diff/{other}", "viewer", self.diff),
            Route("GET", "/admin/api/datasets/{id}/examples", "agent", self.examples),
            Route("GET", "/admin/api/datasets/{id}/rejected", "agent", self.rejected),
        ]

    async def datasets(self, _: web.Request, __: Actor) -> web.Response:
        return json_response({"datasets": await self._scope.read(datasets.list_all)})

    async def dataset(self, request: web.Request, _: Actor) -> web.Response:
        return json_response({"dataset": await self._find(request.match_info["id"])})

    async def diff(self, request: web.Request, _: Actor) -> web.Response:
        """Count the examples that this dataset has added to the other one, removed from it, and kept."""
        dataset, other = await self._find(request.match_info["id"]), await self._find(request.match_info["other"])
        before = await self._scope.read(datasets.example_hashes, other.id)
        after = await self._scope.read(datasets.example_hashes, dataset.id)
        return json_response(
            {
                "dataset": dataset,
                "other": other,
                "added": len(after - before),
                "removed": len(before - after),
                "same": len(after & before),
            }
        )

    async def examples(self, request: web.Request, _: Actor) -> web.Response:
        split, after = request.query.get("split"), number_in_query(request, "after")
        if split not in (None, "train", "held_out"):
            raise InvalidInput("`split` must be train or held_out.", field="split")
        dataset = await self._find(request.match_info["id"])
        page = await self._scope.read(datasets.examples_page, dataset.id, split, -1 if after is None else after, PAGE)
        return json_response({"examples": [{"number": number, "example": example} for number, example in page]})

    async def rejected(self, request: web.Request, _: Actor) -> web.Response:
        after = number_in_query(request, "after")
        dataset = await self._find(request.match_info["id"])
        page = await self._scope.read(datasets.rejected_page, dataset.id, -1 if after is None else after, PAGE)
        return json_response({"rejected": [{"number": number, "row": row} for number, row in page]})

    async def _find(self, dataset_id: str) -> Dataset:
        known = await self._scope.read(datasets.list_all)
        found = next((dataset for dataset in known if dataset.id == dataset_id), None)
        if found is None:
            raise NotFound("There is no such dataset.")
        return found
