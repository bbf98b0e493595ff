"""Every sentence and label that people read, in English and Chinese."""

from __future__ import annotations

from webui import texts_people

DEFAULT_LANGUAGE = "en"

_EN = {
    "new_chat": "New chat",
    "conversations": "Conversations",
    "no_conversations": "Your conversations will be listed here.",
    "delete": "Delete this conversation",
    "delete_confirm": "Delete this conversation for good?",
    "delete_yes": "Delete",
    "delete_no": "Keep it",
    "settings": "Settings",
    "temperature": "Temperature",
    "temperature_info": "Higher is more varied.",
    "top_p": "Top p",
    "top_p_info": "Share of the likeliest words that may be chosen.",
    "total_tokens": "Tokens",
    "total_tokens_info": "For the conversation and the answer together.",
    "instructions": "System prompt",
    "instructions_placeholder": "How the model is to behave (optional)",
    "message": "Message",
    "message_placeholder": "Type a message…",
    "send": "Send",
    "stop": "Stop",
    "retry": "Retry",
    "untitled": "Untitled",
    "chat": "Chat",
    "empty_chat": "What would you like to talk about?",
    # below an answer
    "mark_stopped": "Stopped",
    "mark_length": "Cut at the token limit",
    "mark_failed": "Broken off",
    "mark_incomplete": "Unfinished answer",
    "mark_in_progress": "Still being written",
    # beside the chat
    "empty_message": "There is nothing to send yet: type a message first.",
    "message_too_long": "This message has {n:,} characters; {limit:,} is the most. It was not sent.",
    "older_hidden": "Only the newest {n} messages are shown.",
    "truncated": "The conversation is longer than the model can read: the oldest {n} messages were left out.",
    "conversation_gone": "This conversation no longer exists. Your message is kept below; sending it starts a new one.",
    "nothing_to_retry": "There is no message to answer again.",
    "retry_kept_old": "The new answer did not come; the old one is kept.",
    # errors of the gateway, by code
    "rate_limit_exceeded": "Too many messages in a short time. Try again in {wait} s.",
    "overloaded": "Many people are asking right now. Try again in {wait} s.",
    "upstream_not_ready": "The model is being started or restarted. Try again in {wait} s.",
    "history_unavailable": "{message}",
    "context_length_exceeded": "This is longer than the model can read. Shorten it, or raise Tokens in the settings.",
    "conversation_busy": "This conversation is still being answered, perhaps in another tab. Try again in a moment.",
    "not_found": "This conversation no longer exists.",
    "upstream_failed": "The model stopped with an error. What it had written is kept; Retry asks again.",
    "upstream_failed_no_text": "The model failed before it had written anything. Please try again.",
    "upstream_timeout": "The model took too long. Retry asks again.",
    "upstream_timeout_no_text": "The model took too long and wrote nothing. Please try again.",
    "invalid_api_key": "The server refused this web UI's key (WEBUI_API_KEY_FILE).",
    "webui_key_missing": "The server is still starting: this web UI has no key yet (WEBUI_API_KEY_FILE).",
    "gateway_unreachable": "The server cannot be reached. It is tried again; nothing that you typed is lost.",
    "connection_lost": "The connection was lost in the middle of the answer. What came is kept; Retry asks again.",
    "connection_lost_no_text": "The connection was lost before any of the answer came. Please try again.",
    "other_error": "The server answered with an error: {message} ({code})",
    # state of the server
    "stage_download": "Downloading {model}",
    "stage_convert": "Converting {model}",
    "stage_verify": "Checking the files of {model}",
    "stage_start": "Starting the inference server",
    "stage_load": "Loading {model}",
    "stage_warmup": "Warming up {model}",
    "stage_ready": "{model} is ready",
    "stage_restarting": "The inference server is being restarted",
    "stage_failed": "The model could not be started",
    "stage_unknown": "Waiting for the inference server",
    "stage_connecting": "Connecting to the server",
    "the_model": "the model",
}

_ZH = {
    "new_chat": "新对话",
    "conversations": "对话记录",
    "no_conversations": "您的对话会列在这里。",
    "delete": "删除此对话",
    "delete_confirm": "确定要永久删除此对话吗？",
    "delete_yes": "删除",
    "delete_no": "保留",
    "settings": "设置",
    "temperature": "温度 (temperature)",
    "temperature_info": "越高，回答越多样。",
    "top_p": "核采样 (top_p)",
    "top_p_info": "只从累计概率最高的这部分词中选取。",
    "total_tokens": "Token 数",
    "total_tokens_info": "对话与回答合计的上限。",
    "instructions": "系统提示词",
    "instructions_placeholder": "希望模型如何表现（可不填）",
    "message": "消息",
    "message_placeholder": "输入消息…",
    "send": "发送",
    "stop": "停止",
    "retry": "重新回答",
    "untitled": "无标题",
    "chat": "聊天",
    "empty_chat": "想聊点什么？",
    "mark_stopped": "已停止",
    "mark_length": "已达到 token 上限",
    "mark_failed": "已中断",
    "mark_incomplete": "未完成的回答",
    "mark_in_progress": "仍在生成",
    "empty_message": "还没有可发送的内容，请先输入消息。",
    "message_too_long": "这条消息有 {n:,} 个字符，最多允许 {limit:,} 个，未发送。",
    "older_hidden": "只显示最近的 {n} 条消息。",
    "truncated": "对话超出了模型可读的长度：最早的 {n} 条消息未被送入模型。",
    "conversation_gone": "此对话已不存在。您的消息保留在下方，再次发送会开始新对话。",
    "nothing_to_retry": "没有可以重新回答的消息。",
    "retry_kept_old": "没有得到新的回答，已保留原来的回答。",
    "rate_limit_exceeded": "短时间内消息过多，请在 {wait} 秒后重试。",
    "overloaded": "当前使用人数较多，请在 {wait} 秒后重试。",
    "upstream_not_ready": "模型正在启动或重启，请在 {wait} 秒后重试。",
    "history_unavailable": "暂时无法读写对话记录：{message}",
    "context_length_exceeded": "内容超出了模型可读的长度。请缩短内容，或在设置中提高 token 数。",
    "conversation_busy": "此对话仍在回答中（可能在另一个标签页），请稍后再试。",
    "not_found": "此对话已不存在。",
    "upstream_failed": "模型出错中断。已生成的内容会保留，可点“重新回答”。",
    "upstream_failed_no_text": "模型出错，没有生成任何内容，请重试。",
    "upstream_timeout": "模型响应超时，可点“重新回答”。",
    "upstream_timeout_no_text": "模型响应超时，没有生成任何内容，请重试。",
    "invalid_api_key": "服务器拒绝了此网页界面的密钥（WEBUI_API_KEY_FILE）。",
    "webui_key_missing": "服务器仍在启动：此网页界面还没有密钥（WEBUI_API_KEY_FILE）。",
    "gateway_unreachable": "无法连接服务器，正在重试。您输入的内容不会丢失。",
    "connection_lost": "回答过程中连接中断。已收到的内容会保留，可点“重新回答”。",
    "connection_lost_no_text": "连接中断，没有收到任何回答内容，请重试。",
    "other_error": "服务器返回错误：{message}（{code}）",
    "stage_download": "正在下载 {model}",
    "stage_convert": "正在转换 {model}",
    "stage_verify": "正在校验 {model} 的文件",
    "stage_start": "正在启动推理服务",
    "stage_load": "正在加载 {model}",
    "stage_warmup": "正在预热 {model}",
    "stage_ready": "{model} 已就绪",
    "stage_restarting": "推理服务正在重启",
    "stage_failed": "模型启动失败",
    "stage_unknown": "正在等待推理服务",
    "stage_connecting": "正在连接服务器",
    "the_model": "模型",
}

TEXTS = {"en": _EN | texts_people.EN, "zh": _ZH | texts_people.ZH}


def say(language: str, key: str, **values: object) -> str:
    """One sentence in one language."""
    return TEXTS[language][key].format(**values)


def language_of(accept_language: str) -> str:
    """The language of ours that a browser prefers, from its `Accept-Language` header."""
    wanted = []
    for position, entry in enumerate(accept_language.split(",")):
        tag, _, quality = entry.partition(";")
        try:
            weight = float(quality.strip().removeprefix("q=")) if quality else 1.0
        except ValueError:
            weight = 0.0
        wanted.append((-weight, position, tag.strip().split("-")[0].lower()))
    return next((tag for weight, _, tag in sorted(wanted) if tag in TEXTS and weight < 0), DEFAULT_LANGUAGE)
