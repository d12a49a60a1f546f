"""What a search took, for LangChain's callbacks."""

from collections.abc import Iterable

from langchain_core.callbacks import CallbackManagerForRetrieverRun, dispatch_custom_event

from fastlane_rag.search.result import SearchResult

EVENT = "fastlane_search"


def report(run_manager: CallbackManagerForRetrieverRun, results: Iterable[SearchResult]) -> None:
    """Add what a run's search took to the run's metadata as `fastlane`, and send it as the event `fastlane_search`.

    Handlers and tracers have the metadata by reference, so they see it when the run ends; the event comes before that.
    """
    for result in results:
        taken = result.summary()
        run_manager.metadata["fastlane"] = taken
        if run_manager.handlers:
            dispatch_custom_event(EVENT, taken, config={"callbacks": run_manager.get_child()})
