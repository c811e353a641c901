# SPDX-License-Identifier: Apache-2.0
"""From predictions to the outputs of the deployed graph: one fusion for each kind of prediction."""
