"""Files as Hephaestus and Claude Code have them, written for these tests."""

from __future__ import annotations

HEPHAESTUS = """\
# The forge's configuration
server:
  host: "0.0.0.0"
  port: 8000

llm:
  embedding_model: "text-embedding-3-large"  # OpenAI's
  default_provider: "openrouter"
  default_model: "openai/gpt-oss-120b"

  # Who is asked
  providers:
    openai:
      api_key_env: "OPENAI_API_KEY"
    openrouter:
      api_key_env: "OPENROUTER_API_KEY"
      base_url: "https://openrouter.ai/api/v1"

  model_assignments:
    task_enrichment:
      provider: "openrouter"
      openrouter_provider: "Cerebras"
      model: "openai/gpt-oss-120b"
      temperature: 0.7
      max_tokens: 4000

    # Watches the agents
    agent_monitoring:
      provider: "groq"
      model: "some-model"
      temperature: 0.3
      max_tokens: 2000
      openrouter_provider: "Cerebras"

    guardian_analysis:

# Agents
agents:
  default_cli_tool: "codex"
  cli_model: "GLM-4.6"  # "sonnet", "opus", "haiku" or "GLM-4.6"
  glm_api_token_env: "GLM_API_TOKEN"

vector_store:
  embedding_dimension: 1536
"""

SETTINGS = """\
{
  "model": "claude-opus-4-5",
  "permissions": {"allow": ["Bash(ls:*)"], "deny": []},
  "env": {
    "ANTHROPIC_API_KEY": "sk-ant-of-mine",
    "CLAUDE_CODE_USE_BEDROCK": "1",
    "EDITOR": "vi"
  },
  "hooks": {}
}
"""
