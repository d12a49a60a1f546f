"""The encoder with its routers."""

from fastlane_rag.model.encoder import RoutedEncoder
from fastlane_rag.model.fastlane import FastLaneModel
from fastlane_rag.model.route import Route
from fastlane_rag.model.routed_query import RoutedQuery
from fastlane_rag.model.router import DocumentRouter, QueryRouter

__all__ = ["DocumentRouter", "FastLaneModel", "QueryRouter", "Route", "RoutedEncoder", "RoutedQuery"]
