"""Initial records of the sample shop: products, customers and orders, all invented."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Product:
    """``cents`` is the price in euro cents, ``stock`` the initial stock."""

    id: str
    name: str
    category: str
    cents: int
    stock: int
    weight_grams: int
    supplier: str
    description: str


@dataclass(frozen=True, slots=True)
class Customer:
    """``locked``: a data-protection request forbids access to the record."""

    id: str
    name: str
    email: str
    phone: str
    street: str
    city: str
    country: str
    tier: str
    since: str
    locked: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """``lines`` are pairs of product and quantity."""

    id: str
    customer: str
    status: str
    placed: str
    lines: tuple[tuple[str, int], ...]
    tracking: str | None = None
    note: str | None = None


PRODUCTS: Final = (
    Product("p-101", "Birch Chopping Board", "kitchen", 2490, 34, 1150, "Nordholz", "Solid birch, oiled, 38 x 25 cm."),
    Product("p-102", "Cast Iron Skillet", "kitchen", 4490, 12, 2600, "Ferrum & Sons", "Seasoned, 26 cm, works on induction."),
    Product("p-103", "Copper Kettle", "kitchen", 8900, 3, 1300, "Ferrum & Sons", "Whistling kettle, 1.8 litres, hand-hammered."),
    Product("p-104", "Hand Coffee Grinder", "kitchen", 3950, 21, 540, "Mahlwerk", "Steel burrs, 24 steps, holds 30 g."),
    Product("p-105", "Linen Tea Towels", "kitchen", 1890, 80, 260, "Weberei Lind", "Set of three, washed linen, blue stripe."),
    Product("p-106", "Paring Knife", "kitchen", 1650, 0, 90, "Ferrum & Sons", "Carbon steel, 8 cm blade, pear-wood handle."),
    Product("p-107", "Stoneware Mug", "kitchen", 1290, 144, 380, "Tonwerk", "Glazed inside and out, 300 ml, dishwasher-safe."),
    Product("p-201", "Bulb Planter", "garden", 1490, 40, 620, "Gartenrat", "Steel with depth marks, releases by hand."),
    Product("p-202", "Galvanised Watering Can", "garden", 2790, 18, 1400, "Gartenrat", "9 litres, brass rose."),
    Product("p-203", "Garden Twine", "garden", 590, 210, 150, "Weberei Lind", "Jute, 100 m, green."),
    Product("p-204", "Pruning Shears", "garden", 3490, 9, 240, "Ferrum & Sons", "Bypass blades, cuts up to 22 mm."),
    Product("p-205", "Seed Tin, Herbs", "garden", 1190, 65, 180, "Gartenrat", "Ten organic kinds from basil to thyme."),
    Product("p-206", "Terracotta Pot, 20 cm", "garden", 890, 52, 1700, "Tonwerk", "Frost-proof, with a saucer."),
    Product("p-207", "Wooden Raised Bed", "garden", 12900, 4, 18500, "Nordholz", "Larch, 120 x 80 x 40 cm, flat-packed."),
    Product("p-301", "A Field Guide to Clouds", "books", 2200, 30, 480, "Halm Press", "240 pages, 180 photographs."),
    Product("p-302", "Bread in Seven Days", "books", 2650, 17, 720, "Halm Press", "From flour to sourdough, one step a day."),
    Product("p-303", "Night Trains of Europe", "books", 3400, 8, 910, "Halm Press", "Forty routes with maps and sleeping cars."),
    Product("p-304", "Small Repairs", "books", 1990, 45, 390, "Halm Press", "Zips, hinges, cables: one hundred drawings."),
    Product("p-305", "The Quiet Lighthouse", "books", 1450, 60, 310, "Halm Press", "A novel of two keepers and one winter."),
    Product("p-306", "Walking the Karst", "books", 1795, 0, 350, "Halm Press", "Twelve walks, out of print until spring."),
    Product("p-401", "Brass Desk Lamp", "office", 7450, 11, 1900, "Lumen Werk", "Dimmable, warm white, 1.6 m textile cable."),
    Product("p-402", "Cork Notice Board", "office", 2390, 26, 1250, "Nordholz", "60 x 40 cm, oak frame."),
    Product("p-403", "Dot Grid Notebook", "office", 990, 320, 270, "Halm Press", "160 pages, 100 g paper, lies flat."),
    Product("p-404", "Fountain Pen", "office", 4200, 14, 30, "Tintenhaus", "Fine nib, converter included."),
    Product("p-405", "Ink, Midnight Blue", "office", 1150, 48, 140, "Tintenhaus", "50 ml, washes out."),
    Product("p-406", "Letter Tray", "office", 1850, 33, 600, "Nordholz", "Stackable, for A4."),
    Product("p-407", "Standing Desk Mat", "office", 5600, 7, 2100, "Lumen Werk", "Cushioned, 75 x 50 cm."),
    Product("p-501", "Camping Stove", "outdoor", 5490, 10, 420, "Bergzeit", "Gas, 2.6 kW, folds to the size of a fist."),
    Product("p-502", "Dry Bag, 20 l", "outdoor", 2295, 38, 190, "Bergzeit", "Roll top, welded seams."),
    Product("p-503", "Head Torch", "outdoor", 3190, 29, 85, "Lumen Werk", "350 lumens, red light, USB-C."),
    Product("p-504", "Merino Socks", "outdoor", 1990, 95, 70, "Weberei Lind", "Pair, sizes 36 to 47."),
    Product("p-505", "Trail Map Set", "outdoor", 2750, 16, 330, "Halm Press", "Five sheets, 1:25 000, waterproof."),
    Product("p-506", "Two-Person Tent", "outdoor", 21900, 2, 2350, "Bergzeit", "Three seasons, 2.35 kg, free-standing."),
    Product("p-507", "Vacuum Flask", "outdoor", 2890, 41, 360, "Bergzeit", "0.75 litres, hot for twelve hours."),
    Product("p-601", "Marble Run", "toys", 4990, 13, 1600, "Nordholz", "Beech, 52 pieces, from three years."),
    Product("p-602", "Pocket Kite", "toys", 1590, 27, 110, "Bergzeit", "Flies from 2 Beaufort, packs into its bag."),
    Product("p-603", "Puzzle, Old Harbour", "toys", 2150, 22, 780, "Halm Press", "1000 pieces, 68 x 48 cm."),
    Product("p-604", "Tin Spinning Top", "toys", 1350, 0, 230, "Ferrum & Sons", "Hums while it spins; back in stock in May."),
    Product("p-605", "Wooden Train", "toys", 3290, 19, 950, "Nordholz", "Engine and three wagons, magnetic couplings."),
    Product("p-606", "Yarn Bear Kit", "toys", 2450, 31, 340, "Weberei Lind", "Yarn, needles and instructions for one bear."),
)  # fmt: skip

CUSTOMERS: Final = (
    Customer("c-101", "Ada Brenner", "ada.brenner@example.com", "+49 30 5550101", "Lindenweg 4", "Berlin", "DE", "gold", "2021-03-14"),
    Customer("c-102", "Tomás Oliveira", "tomas.oliveira@example.com", "+351 21 5550102", "Rua do Carmo 18", "Lisbon", "PT", "standard", "2022-07-02"),
    Customer("c-103", "Yuki Tanabe", "yuki.tanabe@example.com", "+81 3 5550103", "Kanda 2-7-1", "Tokyo", "JP", "standard", "2023-01-19"),
    Customer("c-104", "Maren Holst", "maren.holst@example.com", "+45 33 555104", "Strandgade 9", "Copenhagen", "DK", "gold", "2020-11-30"),
    Customer("c-105", "Idris Okafor", "idris.okafor@example.com", "+44 20 55550105", "12 Mill Lane", "Bristol", "GB", "silver", "2022-02-08"),
    Customer("c-106", "Chloé Marchand", "chloe.marchand@example.com", "+33 1 55550106", "3 rue des Lilas", "Lyon", "FR", "standard", "2024-05-21"),
    Customer("c-107", "Petra Novotná", "petra.novotna@example.com", "+420 2 5550107", "Vinohradská 77", "Prague", "CZ", "silver", "2021-09-09"),
    Customer("c-108", "Luis Ferrer", "luis.ferrer@example.com", "+34 91 5550108", "Calle Mayor 5", "Madrid", "ES", "standard", "2023-10-12"),
    Customer("c-109", "Sofia Lindqvist", "sofia.lindqvist@example.com", "+46 8 5550109", "Storgatan 21", "Uppsala", "SE", "standard", "2020-06-17", locked=True),
    Customer("c-110", "Ngozi Adeyemi", "ngozi.adeyemi@example.com", "+234 1 5550110", "8 Palm Close", "Lagos", "NG", "gold", "2022-12-01"),
)  # fmt: skip

ORDERS: Final = (
    Order("o-1001", "c-101", "delivered", "2026-01-08T09:12:44Z", (("p-104", 1), ("p-107", 4)), "NX100441"),
    Order("o-1002", "c-103", "delivered", "2026-01-11T22:40:03Z", (("p-301", 1),), "NX100467"),
    Order("o-1003", "c-105", "delivered", "2026-01-15T17:05:31Z", (("p-502", 2), ("p-503", 1)), "NX100512"),
    Order("o-1004", "c-102", "refunded", "2026-01-19T08:33:20Z", (("p-103", 1),), "NX100538", "Arrived dented."),
    Order("o-1005", "c-104", "delivered", "2026-01-24T13:47:59Z", (("p-207", 1), ("p-203", 3)), "NX100590"),
    Order("o-1006", "c-107", "delivered", "2026-02-02T10:01:12Z", (("p-601", 1), ("p-605", 1)), "NX100655"),
    Order("o-1007", "c-110", "delivered", "2026-02-05T06:25:40Z", (("p-403", 12), ("p-405", 2)), "NX100671"),
    Order("o-1008", "c-106", "cancelled", "2026-02-09T19:58:07Z", (("p-506", 1),), None, "Ordered twice."),
    Order("o-1009", "c-109", "delivered", "2026-02-12T11:30:00Z", (("p-105", 2),), "NX100733"),
    Order("o-1010", "c-101", "delivered", "2026-02-20T15:44:18Z", (("p-302", 1), ("p-101", 1)), "NX100802"),
    Order("o-1011", "c-108", "delivered", "2026-02-26T21:09:55Z", (("p-504", 6),), "NX100846"),
    Order("o-1012", "c-104", "shipped", "2026-03-03T07:17:26Z", (("p-204", 1), ("p-201", 1)), "NX100901"),
    Order("o-1013", "c-105", "shipped", "2026-03-04T12:52:09Z", (("p-501", 1), ("p-507", 2)), "NX100914"),
    Order("o-1014", "c-103", "shipped", "2026-03-06T23:15:37Z", (("p-404", 1),), "NX100930"),
    Order("o-1015", "c-110", "paid", "2026-03-09T09:40:11Z", (("p-401", 2),), None, "Deliver on a weekday."),
    Order("o-1016", "c-102", "paid", "2026-03-10T18:21:48Z", (("p-303", 1), ("p-505", 1))),
    Order("o-1017", "c-107", "paid", "2026-03-11T14:06:02Z", (("p-606", 1), ("p-603", 1), ("p-602", 2))),
    Order("o-1018", "c-101", "pending", "2026-03-12T08:00:33Z", (("p-102", 1),)),
    Order("o-1019", "c-106", "pending", "2026-03-12T10:28:14Z", (("p-205", 3), ("p-206", 6))),
    Order("o-1020", "c-108", "pending", "2026-03-12T16:59:50Z", (("p-304", 1),), None, "A gift: no invoice."),
)  # fmt: skip
