"""One protocol's requests, answers and streams in the other's: Anthropic Messages and OpenAI chat/completions.

Pure, and used only where a target lacks the client's protocol. What cannot be said at all, and
would change the answer if it were left out, raises Untranslatable with the key; what is
harmless is left out without a word. The lists of keys are data: ``to_chat.UNSAYABLE`` and
``to_messages.UNSAYABLE``.

Requests
========

| Messages | chat | remarks |
|---|---|---|
| system (string, blocks) | a system message | blocks as paragraphs |
| role system among the messages | kept if strict; else folded into the user's turn | templates take one, at the head |
| - | system, developer after the first turn | folded into the user's turn |
| max_tokens | max_tokens; strict: max_completion_tokens | default towards Messages: 32,000 |
| temperature (0-1), top_p, top_k | the same | clamped to 1; top_k not if strict; Claude from 4.7 takes none |
| stop_sequences | stop | |
| metadata.user_id | user, safety_identifier | |
| stream | stream, stream_options.include_usage | usage is always asked for |
| tools (custom) | tools (function) | strict is kept |
| tools of Anthropic's own (bash, web search, ...) | untranslatable | |
| untranslatable | tools of type custom, functions, function_call | |
| tool_choice auto, any, tool, none | auto, required, function, none | allowed_tools: the list is filtered |
| disable_parallel_tool_use | parallel_tool_calls: false | |
| text, image (base64, url) | text, image_url (data URI, URL) | files: untranslatable; detail is dropped |
| document and search_result of text, without citations | text, under its title | |
| other documents, server tools' blocks | untranslatable | |
| untranslatable | input_audio, file, video_url, ... | |
| tool_use | tool_calls | ids towards Anthropic lose what it refuses |
| tool_result | a tool message | before the user's text; images follow in the user's message |
| is_error | ``Error: `` before the text | one way |
| thinking (of earlier answers) | reasoning, reasoning_content; not if strict | towards Messages only signed ones, from reasoning_details |
| redacted_thinking | dropped | towards Messages from reasoning_details |
| thinking enabled, adaptive, disabled; output_config.effort | reasoning_effort; not strict: chat_template_kwargs too | see thinking.py |
| output_config.format | response_format json_schema | json_object and engines' grammars: untranslatable |
| a last message of the assistant | continue_final_message; strict: untranslatable | towards Messages it is continued, or refused by the model |
| cache_control | dropped | kept from chat parts and tools that have it |
| container, mcp_servers, inference_geo | untranslatable | |
| service_tier, context_management, speed, diagnostics, thinking.display | dropped | |
| untranslatable | n > 1, logprobs, logit_bias, audio, web_search_options, min_tokens, ... | |
| dropped | penalties, seed, min_p, store, metadata, service_tier, verbosity, prediction, name | likelihoods and records, not what is asked |

Answers and streams
===================

| Messages | chat | remarks |
|---|---|---|
| id | id | the target's own, so that logs agree |
| text | content; refusal becomes text | citations are dropped; blank text beside other blocks too |
| thinking | reasoning_content (read: reasoning too) | signatures in reasoning_details, as OpenRouter has them |
| tool_use | tool_calls | arguments that are no JSON object: ``answers.UNPARSED`` |
| end_turn, pause_turn | stop | |
| stop_sequence | stop, with vLLM's stop_reason | read: SGLang's matched_stop too |
| max_tokens, model_context_window_exceeded | length | |
| tool_use | tool_calls | also where an engine says stop |
| refusal | content_filter | |
| input_tokens + cache_read + cache_creation | prompt_tokens | cached_tokens and cache_write_tokens are among them |
| message_delta's usage | a chunk of its own, if asked for | message_start's is 0 until the target tells it |
| error event | an error chunk | also for a stream that breaks off, or is no stream |
"""

from lemnos.wire.translate.answers import chat_answer, messages_answer
from lemnos.wire.translate.common import Untranslatable
from lemnos.wire.translate.errors import error_answer
from lemnos.wire.translate.to_chat import chat_request
from lemnos.wire.translate.to_chat_stream import ChatStream
from lemnos.wire.translate.to_messages import messages_request
from lemnos.wire.translate.to_messages_stream import MessagesStream

__all__ = [
    "ChatStream",
    "MessagesStream",
    "Untranslatable",
    "chat_answer",
    "chat_request",
    "error_answer",
    "messages_answer",
    "messages_request",
]
