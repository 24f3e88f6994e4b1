"""Assembly of the admin page from its areas."""

from __future__ import annotations

from adapters.admin.accounts_api import AccountsApi
from adapters.admin.admin_api import AdminApi, Area
from adapters.admin.answers_api import AnswersApi
from adapters.admin.articles_api import ArticlesApi
from adapters.admin.charts_api import ChartsApi
from adapters.admin.compare_api import CompareApi
from adapters.admin.datasets_api import DatasetsApi
from adapters.admin.gaps_api import GapsApi
from adapters.admin.guard import Guard
from adapters.admin.intents_api import IntentsApi
from adapters.admin.jobs_api import JobsApi
from adapters.admin.overview_api import OverviewApi
from adapters.admin.people_api import PeopleApi
from adapters.admin.reviews_api import ReviewsApi
from adapters.admin.versions_api import VersionsApi
from adapters.http.origins import Origins
from bot.access.accounts import Accounts
from bot.jobs.control import Jobs
from bot.knowledge.calibration import Thresholds
from bot.knowledge.grounding import Grounding
from bot.knowledge.knowledge_gaps import Gaps
from bot.knowledge.library import Library
from bot.learning.data.review_queue import Reviews
from bot.learning.judge.blind_judging import BlindJudging
from bot.learning.release.releases import Releases
from bot.learning.versions import Versions
from bot.privacy.erasure.erase_person import Erasure
from bot.privacy.learning_consent import Consent
from storage.scope import Scope


def assemble(
    scope: Scope,
    *,
    title: str,
    base: str,
    origins: Origins,
    accounts: Accounts,
    releases: Releases,
    consent: Consent,
    erasure: Erasure,
    library: Library,
    grounding: Grounding,
    gaps: Gaps,
) -> AdminApi:
    """Build the admin page of one workspace. `base` is the name of the model that versions are trained from."""
    jobs, reviews = Jobs(scope), Reviews(scope)
    versions = Versions(scope)
    areas: list[Area] = [
        OverviewApi(scope, base, accounts, releases, jobs, reviews),
        ReviewsApi(reviews),
        ArticlesApi(library, grounding),
        GapsApi(gaps),
        AnswersApi(grounding.curated, Thresholds(scope)),
        IntentsApi(grounding.intents),
        DatasetsApi(scope),
        JobsApi(jobs),
        VersionsApi(scope, versions, releases, jobs),
        CompareApi(scope, BlindJudging(scope), versions),
        ChartsApi(scope, jobs),
        PeopleApi(erasure, consent, versions),
        AccountsApi(accounts),
    ]
    return AdminApi(title, accounts, Guard(accounts, origins), areas)
