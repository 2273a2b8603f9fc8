"""Spans: conversion between ops and spans, the tracer provider, and the processor that turns ended spans into ops."""
