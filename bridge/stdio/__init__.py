"""The stdio transport: serving one client, with early answers while the SDK is imported."""
