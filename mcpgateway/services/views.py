"""A view: the upstreams behind one endpoint, and the names under which what they offer is seen there."""

from __future__ import annotations

from mcpgateway.errors import InvalidParams
from mcpgateway.protocol import names
from mcpgateway.services.upstream import Upstream


class View:
    """Either all upstreams, with prefixed names, or one, as if direct."""

    def __init__(self, upstreams: dict[str, Upstream], *, single: bool) -> None:
        self.upstreams = upstreams
        self.single = single
        self.only: Upstream
        """The upstream of a single view."""

    def __repr__(self) -> str:
        return f"<View of {', '.join(self.upstreams)}>"

    def exposed(self, slug: str, name: str) -> str:
        """What a tool or prompt of an upstream is called here."""
        return name if self.single else names.exposed(slug, name)

    def owner_of_name(self, name: str, what: str) -> tuple[Upstream, str]:
        """The upstream of a name, and the rest of it. Raises InvalidParams for a name of nobody's."""
        if self.single:
            return self.only, name
        parts = names.split(name)
        upstream = self.upstreams.get(parts[0]) if parts is not None else None
        if parts is None or upstream is None:
            raise unknown(what, name)
        return upstream, parts[1]


def unknown(what: str, name: str) -> InvalidParams:
    """What is said of a tool or prompt that does not exist, or that the caller may not use: nobody learns which."""
    return InvalidParams(f"Unknown {what}: {name[:200]}")


class Views:
    """The view of all upstreams, and one for each. They stay the same objects while upstreams come and go behind them."""

    def __init__(self, upstreams: dict[str, Upstream]) -> None:
        self._all = View(upstreams, single=False)
        self._single: dict[str, View] = {}
        self.refresh()

    def refresh(self) -> None:
        """The upstreams have changed."""
        for slug in self._single.keys() - self._all.upstreams.keys():
            del self._single[slug]
        for slug, upstream in self._all.upstreams.items():
            view = self._single.setdefault(slug, View({}, single=True))
            view.upstreams[slug] = view.only = upstream

    def paths(self, end: str = "mcp") -> dict[str, View]:
        """Each path with this `end` at which MCP is served, and what is behind it.

        A server is found by its slug and by its name.
        """
        paths = {f"/{end}": self._all}
        for slug, view in self._single.items():
            paths[f"/servers/{slug}/{end}"] = view
            paths.setdefault(f"/servers/{view.only.name}/{end}", view)
        return paths

    def of(self, server: str) -> View | None:
        """The view of all upstreams for '', else that of the one with this slug or name; None where there is none."""
        if not server:
            return self._all
        named = (view for view in self._single.values() if view.only.name == server)
        return self._single.get(server) or next(named, None)
