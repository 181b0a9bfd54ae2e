from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from bridge.demo.shop import create_app

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shop() -> AsyncIterator[httpx.AsyncClient]:
    async with client() as opened:
        yield opened


def client(authorization: str | None = "Bearer demo-key") -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app("demo-key")),
        base_url="http://shop",
        headers={} if authorization is None else {"authorization": authorization},
    )


def order(*lines: tuple[str, int], customer: str = "c-101") -> dict[str, Any]:
    return {
        "customer_id": customer,
        "lines": [{"product_id": product, "quantity": quantity} for product, quantity in lines],
    }


async def stock(shop: httpx.AsyncClient, product: str) -> int:
    return int((await shop.get(f"/api/products/{product}")).json()["stock"])


async def test_products_are_listed_up_to_the_limit(shop: httpx.AsyncClient) -> None:
    reply = (await shop.get("/api/products")).json()
    assert (len(reply["items"]), reply["total"]) == (20, 40)
    garden = (await shop.get("/api/products", params={"category": "garden", "limit": 2})).json()
    assert ([item["id"] for item in garden["items"]], garden["total"]) == (["p-201", "p-202"], 7)


async def test_a_product_has_a_price_and_its_stock(shop: httpx.AsyncClient) -> None:
    reply = (await shop.get("/api/products/p-103")).json()
    assert reply["price"] == {"amount": "89.00", "currency": "EUR"}
    assert reply["stock"] == 3


async def test_an_order_is_placed_and_takes_its_stock(shop: httpx.AsyncClient) -> None:
    reply = await shop.post("/api/orders", json=order(("p-105", 2), ("p-203", 1)) | {"note": "Ring twice."})
    assert reply.status_code == 201
    placed = reply.json()
    assert (placed["id"], placed["status"], placed["note"]) == ("o-1021", "pending", "Ring twice.")
    assert placed["lines"][0]["line_total"]["amount"] == "37.80"
    assert (placed["shipping"]["amount"], placed["total"]["amount"]) == ("4.90", "48.60")
    assert await stock(shop, "p-105") == 78
    assert (await shop.get(reply.headers["location"])).json() == placed
    assert "o-1021" in (await shop.get("/api/customers/c-101")).json()["orders"]


async def test_shipping_is_free_from_fifty_euros(shop: httpx.AsyncClient) -> None:
    placed = (await shop.post("/api/orders", json=order(("p-103", 1)))).json()
    assert (placed["shipping"]["amount"], placed["total"]["amount"]) == ("0.00", "89.00")


async def test_the_same_idempotency_key_places_one_order(shop: httpx.AsyncClient) -> None:
    key = {"idempotency-key": "once"}
    first = await shop.post("/api/orders", json=order(("p-103", 1)), headers=key)
    again = await shop.post("/api/orders", json=order(("p-103", 1)), headers=key)
    assert first.json() == again.json()
    assert await stock(shop, "p-103") == 2


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (order(("p-999", 1)), "There is no product p-999."),
        (
            order(("p-103", 2), ("p-103", 2)),
            "Requested 4 of p-103 (Copper Kettle), 3 in stock.",
        ),
        (order(("p-103", 1), customer="c-1"), "There is no customer c-1."),
        (
            order(("p-106", 1), customer="c-1"),
            "There is no customer c-1. Requested 1 of p-106 (Paring Knife), 0 in stock.",
        ),
        (order(("p-103", 0)), "lines.0.quantity: Input should be greater than or equal to 1"),
        (order(), "lines: List should have at least 1 item after validation, not 0"),
        ([], "Input should be an object"),
    ],
)
async def test_an_invalid_order_is_refused_with_all_problems(
    shop: httpx.AsyncClient, body: object, detail: str
) -> None:
    reply = await shop.post("/api/orders", json=body)
    assert reply.status_code == 422
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["detail"] == detail


async def test_a_refused_order_takes_no_stock(shop: httpx.AsyncClient) -> None:
    await shop.post("/api/orders", json=order(("p-103", 1), ("p-106", 1)))
    assert await stock(shop, "p-103") == 3


async def test_a_note_is_kept_with_the_customer(shop: httpx.AsyncClient) -> None:
    reply = await shop.post("/api/customers/c-102/notes", json={"text": "Prefers e-mail."})
    assert (reply.status_code, reply.json()["id"]) == (201, "n-1")
    notes = (await shop.get("/api/customers/c-102")).json()["notes"]
    assert [note["text"] for note in notes] == ["Prefers e-mail."]


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/api/products/p-1", 404, "There is no product 'p-1'."),
        ("GET", "/api/orders/o-1", 404, "There is no order 'o-1'."),
        ("GET", "/api/customers/c-1", 404, "There is no customer 'c-1'."),
        ("GET", "/api/shops", 404, "Not Found"),
        ("GET", "/api/orders", 405, "Method Not Allowed"),
        ("GET", "/api/customers/c-109", 403, "The records of c-109 are locked by a data-protection request."),
        ("GET", "/api/orders/o-1009", 403, "The records of c-109 are locked by a data-protection request."),
        (
            "GET",
            "/api/products?category=cars",
            422,
            "Unknown category; choose one of: books, garden, kitchen, office, outdoor, toys.",
        ),
        ("GET", "/api/products?limit=101", 422, "limit: Input should be less than or equal to 100"),
        (
            "POST",
            "/api/customers/c-101/notes",
            422,
            "Invalid JSON: EOF while parsing a value at line 1 column 0",
        ),
    ],
)
async def test_a_refusal_is_a_problem_with_its_detail(
    shop: httpx.AsyncClient, method: str, path: str, status: int, detail: str
) -> None:
    reply = await shop.request(method, path)
    assert (reply.status_code, reply.json()["status"], reply.json()["detail"]) == (status, status, detail)


async def test_an_order_for_a_locked_customer_is_refused(shop: httpx.AsyncClient) -> None:
    reply = await shop.post("/api/orders", json=order(("p-103", 1), customer="c-109"))
    assert reply.status_code == 403
    assert await stock(shop, "p-103") == 3


@pytest.mark.parametrize("authorization", [None, "Bearer demo", "Basic demo-key", "demo-key"])
async def test_requests_without_the_key_are_refused(authorization: str | None) -> None:
    async with client(authorization) as shop:
        reply = await shop.get("/api/products")
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == 'Bearer realm="shop"'


async def test_each_app_has_a_state_of_its_own(shop: httpx.AsyncClient) -> None:
    await shop.post("/api/orders", json=order(("p-103", 3)))
    async with client() as other:
        assert await stock(other, "p-103") == 3
