"""Build products.parquet: forty invented products of an outdoor and home shop, to translate.

    python data/samples/build_products.py

Written for Parquill. On purpose there are: products without a description (a null), two with the same text
at different prices (identical requests are paid once), line breaks, quotation marks, units, prices of zero and
names that must not be translated. The result depends on nothing but this file.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# title, description or None, category, price in euros
PRODUCTS: tuple[tuple[str, str | None, str, str], ...] = (
    (
        "Trail lantern",
        "A lantern that runs 40 hours on one charge. Hook, magnet and warm light.",
        "camping",
        "34.90",
    ),
    (
        "Two-person tent Skarn",
        ("Freestanding tent for two, 1.9 kg. Pitch it in four minutes, inner tent first or both layers at once."),
        "camping",
        "249.00",
    ),
    ("Titanium mug", "Holds 450 ml, weighs 78 g. The handles fold flat.", "camping", "29.50"),
    (
        "Gas stove Ember",
        "Boils one liter in three and a half minutes. Piezo ignition. Gas is not included.",
        "camping",
        "54.00",
    ),
    ("Spare tent pegs, pack of 8", None, "camping", "9.95"),
    (
        "Sleeping bag Fjell 3",
        (
            "Synthetic filling, comfortable down to -3 °C. Two-way zipper on the left; two bags of "
            "the same model can be joined."
        ),
        "camping",
        "119.00",
    ),
    (
        "Inflatable mat",
        "Seven centimeters thick, packs to the size of a bottle. Repair kit in the bag.",
        "camping",
        "79.90",
    ),
    (
        "Water filter",
        "Removes bacteria and protozoa, not viruses. Good for 1,000 liters if you rinse it back.",
        "camping",
        "44.90",
    ),
    (
        "Daypack 22 l",
        "Fits a 14-inch laptop and a lunch box. Rain cover in the bottom pocket.",
        "bags",
        "69.00",
    ),
    (
        "Daypack 22 l",
        "Fits a 14-inch laptop and a lunch box. Rain cover in the bottom pocket.",
        "bags",
        "59.00",
    ),
    (
        "Roll-top pannier, pair",
        "Welded seams, so nothing gets wet. Clicks onto racks with tubes of 8 to 16 mm.\nSold as a pair.",
        "bags",
        "129.00",
    ),
    ("Hip bag", "Room for a phone, keys and a wind jacket. Does not bounce when you run.", "bags", "32.00"),
    ("Packing cubes, set of 3", None, "bags", "24.90"),
    (
        "Rain jacket Brisk",
        (
            "Waterproof to 20,000 mm with taped seams. The hood fits over a helmet. Cut wide enough for "
            "a fleece underneath."
        ),
        "clothing",
        "179.00",
    ),
    (
        "Merino shirt",
        "150 g/m² merino wool. Dries overnight and does not smell after three days on the trail.",
        "clothing",
        "64.90",
    ),
    (
        "Wool socks",
        "Padded at heel and toe. If they wear through within five years, we replace them.",
        "clothing",
        "19.90",
    ),
    ("Sun hat", "Brim all around, chin cord, UPF 50+. Rinse it by hand.", "clothing", "27.50"),
    ("Fleece gloves", "Thin enough for a touchscreen, warm enough for the way to work.", "clothing", "22.00"),
    (
        "Headlamp Lumo 400",
        ("400 lumens for the path, red light for the tent. Charges by USB-C; a lock keeps it dark in your bag."),
        "lighting",
        "49.90",
    ),
    (
        "Bicycle light set",
        "Front 60 lux, rear with brake light. Approved for road use in Germany (StVZO).",
        "lighting",
        "58.00",
    ),
    (
        "String lights, 10 m",
        "Forty small bulbs on a copper wire. For indoors and covered balconies.",
        "lighting",
        "17.90",
    ),
    ("Spare batteries, AA, pack of 4", None, "lighting", "6.50"),
    (
        "Cast-iron pan, 26 cm",
        "Ready seasoned. Works on gas, induction and open fire. Keep it out of the dishwasher.",
        "kitchen",
        "42.00",
    ),
    ("Paring knife", "Blade of 9 cm, beech handle. Takes a new edge in ten strokes.", "kitchen", "18.50"),
    (
        "French press, 1 l",
        "Double-walled steel keeps coffee hot for an hour; the outside stays cool.",
        "kitchen",
        "39.90",
    ),
    (
        "Bread tin",
        "For loaves of 750 g to 1 kg. A crust like from the bakery, thanks to the lid.",
        "kitchen",
        "36.00",
    ),
    (
        "Linen tea towels, pair",
        "They dry glasses without lint and get softer with every wash.",
        "kitchen",
        "21.00",
    ),
    (
        "Spice jars, set of 6",
        "Screw lids with an inner sieve. Labels and a white pencil are in the box.",
        "kitchen",
        "16.90",
    ),
    (
        "Salt mill",
        "Ceramic grinder, five steps from powder to flakes. Salt does not harm it, nor does pepper.",
        "kitchen",
        "31.00",
    ),
    (
        "Pruning shears",
        "Cuts twigs up to 20 mm. Every part can be replaced, and we stock all of them.",
        "garden",
        "47.50",
    ),
    (
        "Watering can, 5 l",
        "Long spout for pots at the back. The rose comes off for seedlings.",
        "garden",
        "25.90",
    ),
    (
        'Seed mix "Bee summer"',
        "Annual flowers for 5 m². Sow from April to June, water for two weeks, then leave them alone.",
        "garden",
        "4.50",
    ),
    (
        "Compost thermometer",
        "A 50 cm probe tells when the heap is done. Reads from 0 to 100 °C.",
        "garden",
        "23.00",
    ),
    ("Knee pad", "Closed-cell foam, 4 cm. Also good on cold stadium seats.", "garden", "12.90"),
    (
        "Pocket tool Nib",
        "Pliers, two blades, a file and eight more. Weighs less than an apple: 148 g.",
        "tools",
        "84.00",
    ),
    (
        "Bicycle multi-tool",
        'Hex keys 2 to 8 mm, Torx T25, chain breaker. "The one that stays in the bag."',
        "tools",
        "33.50",
    ),
    ("Tape measure, 5 m", None, "tools", "8.90"),
    (
        "Repair patches",
        "Self-adhesive, for tents, jackets and mats. Warm them with your hand, wait a day, done.",
        "tools",
        "11.00",
    ),
    ("Gift card", "Valid for three years, in the shop and online. You choose the amount.", "gifts", "0.00"),
    (
        "Catalog, spring",
        "Our printed catalog: 96 pages with care tips and one recipe. Free with any order.",
        "gifts",
        "0.00",
    ),
)

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("description", pa.string()),
        pa.field("category", pa.string(), nullable=False),
        pa.field("price_eur", pa.decimal128(10, 2), nullable=False),
    ]
)


def main() -> None:
    """Write products.parquet beside this file."""
    rows = [
        {
            "id": f"P{number:03d}",
            "title": title,
            "description": description,
            "category": category,
            "price_eur": Decimal(price),
        }
        for number, (title, description, category, price) in enumerate(PRODUCTS, start=1)
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    target = Path(__file__).with_name("products.parquet")
    pq.write_table(table, target, compression="zstd", write_page_checksum=True, row_group_size=len(table))
    print(f"{len(table)} products, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
