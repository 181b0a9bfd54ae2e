from bridge.demo.seed import CUSTOMERS, ORDERS, PRODUCTS


def test_ids_are_unique_and_orders_refer_to_existing_records() -> None:
    products = {product.id for product in PRODUCTS}
    customers = {customer.id for customer in CUSTOMERS}
    assert (len(products), len(customers), len({order.id for order in ORDERS})) == (40, 10, 20)
    assert {order.customer for order in ORDERS} <= customers
    assert {product for order in ORDERS for product, _ in order.lines} <= products


def test_the_shop_has_records_that_cause_errors() -> None:
    assert any(product.stock == 0 for product in PRODUCTS)
    assert any(customer.locked for customer in CUSTOMERS)
    assert len({order.status for order in ORDERS}) == 6
