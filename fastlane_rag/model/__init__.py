"""The encoder with its routers."""

from fastlane_rag.model.encoder import RoutedEncoder
from fastlane_rag.model.fastlane import FastLaneModel, Route, RoutedQuery
from fastlane_rag.model.router import DocumentRouter, QueryRouter

__all__ = ["DocumentRouter", "FastLaneModel", "QueryRouter", "Route", "RoutedEncoder", "RoutedQuery"]
