"""What made workbooks are about: names of sheets and columns, units, words to fill them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ROLES = ("key", "category", "partner", "day", "quantity", "price", "value")
COUNTRIES = ("Austria", "Brazil", "Chile", "Denmark", "Egypt", "Finland", "Ghana", "Hungary")
ENDS = ("Works", "Brothers", "Group", "Trading", "Partners", "Services")
STARTS = (
    "Alder",
    "Birch",
    "Cedar",
    "Dune",
    "Ember",
    "Fjord",
    "Grove",
    "Harbour",
    "Iris",
    "Juniper",
)
PEOPLE = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivo", "Jun", "Kim", "Lea")


@dataclass(frozen=True)
class Theme:
    """What a main sheet is about: its name, its columns' titles by role, units and categories."""

    sheet: str
    partners: str
    prefix: str
    titles: Mapping[str, str]
    unit: str
    categories: Sequence[str]


def _theme(
    sheet: str, partners: str, prefix: str, titles: str, unit: str, categories: str
) -> Theme:
    named = dict(zip(ROLES, titles.split(), strict=True))
    return Theme(sheet, partners, prefix, named, unit, tuple(categories.split()))


THEMES = (
    _theme(
        "Orders",
        "Suppliers",
        "OR",
        "Order Product Supplier Date Quantity Price Value",
        "pcs",
        "Bolts Hinges Panels Cables Valves Filters",
    ),
    _theme(
        "Shipments",
        "Carriers",
        "SH",
        "Shipment Goods Carrier Sent Weight Rate Cost",
        "kg",
        "Grain Paper Steel Fruit Glass Timber",
    ),
    _theme(
        "Repairs",
        "Workshops",
        "RE",
        "Repair Machine Workshop Finished Hours Fee Bill",
        "h",
        "Lathe Press Crane Pump Drill Oven",
    ),
)
