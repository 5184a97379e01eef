"""Identity validations, once decided: from landing to raw, quarantine and masked. Marts are in `curated.py`."""

from assets.records import landing_asset, masked_asset, sealed_asset
from stores.contracts import load_contract
from stores.validations.analytics import SOURCE

CONTRACT = load_contract(SOURCE)

landing_validations = landing_asset(
    CONTRACT, "Decided validations as analytics hands them over: readable until they are sealed."
)
sealed_validations = sealed_asset(CONTRACT)
masked_validations = masked_asset(CONTRACT)
