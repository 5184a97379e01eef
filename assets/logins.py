"""Login events: from landing to raw, quarantine and masked. The marts are in `curated.py`."""

from assets.records import landing_asset, masked_asset, sealed_asset
from stores.contracts import load_contract

CONTRACT = load_contract("logins")

landing_logins = landing_asset(
    CONTRACT, "Files of login events as they arrive: JSON lines, arrays or queue messages."
)
sealed_logins = sealed_asset(CONTRACT)
masked_logins = masked_asset(CONTRACT)
