"""What other parts of torchmar say in English, in the reader's language: results, errors, stages, the APIs.

They say it to every reader alike, with numbers and names in it; so it is found by its form, here alone.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Final

# Forms of texts, with what is put in by name; the first that fits counts.
_CHINESE: Final = {
    # Loads, and the heads of their table.
    "warm-up": "预热",
    "1 connection": "1 个连接",
    "{number} connections": "{number} 个连接",
    "{number}/s": "每秒 {number} 个",
    "load": "负载",
    "requests/s": "请求/秒",
    "p50 ms": "p50 毫秒",
    "max": "最大",
    "first part p50": "首段 p50",
    "within {slo} ms": "{slo} 毫秒内",
    "errors": "错误",
    "server: {stage}": "服务器：{stage}",
    # Stages of a request.
    "queue": "排队",
    "worker": "工作进程",
    "batch": "批大小",
    "preprocess": "预处理",
    "inference": "推理",
    "postprocess": "后处理",
    # What a load test has come to.
    "up to {rate} requests/s, {share} of them are answered within {slo} ms": (
        "每秒最多 {rate} 个请求时，{share} 能在 {slo} 毫秒内得到回答"
    ),
    "no rate was found at which {share} of the requests are answered within {slo} ms": (
        "没有找到能让 {share} 的请求在 {slo} 毫秒内得到回答的速率"
    ),
    "{load}: {share} of the requests were answered within the SLO, not {wanted}": (
        "{load}：{share} 的请求在时限内得到回答，未达到 {wanted}"
    ),
    "no request got a good answer: {kind}": "没有一个请求得到正常回答：{kind}",
    "of {number} requests of the warm-up none got a good answer: {kind}": (
        "预热的 {number} 个请求没有一个得到正常回答：{kind}"
    ),
    "no request was sent": "没有发送任何请求",
    "warning, {loads}: {warning}": "警告，{loads}：{warning}",
    "{load}: {number} x {kind}: {error}": "{load}：{number} 次 {kind}：{error}",
    "{load}: {number} x {kind}": "{load}：{number} 次 {kind}",
    "the load's own process was busy {busy} of the time: the figures are its limit, not the server's; load the server "
    "from several machines, or with larger requests": (
        "发送负载的进程有 {busy} 的时间处于忙碌：这些数字是它的上限，而不是服务器的；请从多台机器发送，或使用更大的请求"
    ),
    "the server is on this machine, whose processors were busy {busy} of the time, {share} with the load itself: from "
    "another machine the server would answer more": (
        "服务器在本机上，本机处理器有 {busy} 的时间处于忙碌，其中 {share} 用于负载本身："
        "从另一台机器测试，服务器能回答更多"
    ),
    "it was ended after {seconds} s: the server's answers took too long": "{seconds} 秒后被终止：服务器回答太慢",
    "it has failed: the server's log says why": "出错：原因在服务器日志中",
    "the server, or its console, has ended before it": "服务器或控制台在测试结束之前已停止",
    "the process that sends the load could not be started: {error}": "无法启动发送负载的进程：{error}",
    "a load test is under way: stop it, or wait for its end": "负载测试正在进行：请停止它，或等待其结束",
    "another console loads this server: stop its load test, or wait for its end": (
        "另一个控制台正在对该服务器进行负载测试：请在那里停止它，或等待其结束"
    ),
    "the process that sends the load did not end when it was stopped, and was killed": (
        "发送负载的进程在停止时没有结束，已被强制终止"
    ),
    "the key is not taken any more: it was renewed during the test, or has expired": (
        "密钥不再被接受：它在测试期间被更换，或已过期"
    ),
    "the key is not taken any more": "密钥不再被接受",
    "begin the test again: it then takes the key that is good": "请重新开始测试：它会使用有效的密钥",
    "Token Authorization failed. Token either incorrect, expired, or not provided correctly": (
        "密钥验证失败：密钥不正确、已过期，或未正确提供"
    ),
    "name the key in TORCHMAR_TOKEN or with --token-file; torchmar keys shows those of a server that it started": (
        "请用 TORCHMAR_TOKEN 或 --token-file 给出密钥；torchmar keys 可显示由它启动的服务器的密钥"
    ),
    "the server ends": "服务器正在停止",
    # What a form may not say.
    "choose a file or a sample, or write something": "请选择文件或样例，或输入内容",
    "a file is chosen and a text written: leave one of them out": "既选择了文件又输入了文本：请只保留其中之一",
    "a number of workers is wanted, {least} to {most}": "请填写工作进程数，{least} 到 {most}",
    "connections: {most} at the most with an input of {size}, for all at once may have {total}; lower them, or choose "
    "a smaller input": (
        "连接数：输入为 {size} 时最多 {most} 个，因为同时发送的输入合计不得超过 {total}；请减少连接数，或选择更小的输入"
    ),
    "loop: connections or rate is wanted": "负载方式：请选择连接数或每秒请求数",
    "content type: write printable ASCII, such as text/plain": "内容类型：请填写可打印的 ASCII 字符，例如 text/plain",
    "a form of {size} cannot be kept in the folder {folder}, which has {room} left: {error}; make room there, or start "
    "the server with another one in TMPDIR": (
        "{size} 的表单无法存放在目录 {folder} 中，该目录剩余 {room}：{error}；请腾出空间，或用 TMPDIR 另指目录"
    ),
    "a form of {size} cannot be kept in the folder {folder}: {error}; make room there, or start the server with "
    "another one in TMPDIR": "{size} 的表单无法存放在临时目录中：{error}；请腾出空间，或用 TMPDIR 另指目录",
    "connections: a whole number is wanted": "连接数：请填写整数",
    "connections: a number is wanted, {least} to {most}": "连接数：请填写数字，{least} 到 {most}",
    "rate: a number is wanted, {least} to {most}": "每秒请求数：请填写数字，{least} 到 {most}",
    "seconds: a number is wanted, {least} to {most}": "秒数：请填写数字，{least} 到 {most}",
    "slo: a number is wanted, {least} to {most}": "时限：请填写数字，{least} 到 {most} 毫秒",
    "this form came without its cookie: load the page again, and let it keep one": (
        "该表单没有附带 Cookie：请重新加载页面，并允许使用 Cookie"
    ),
    "this form is of a session that has ended: load its page again, and send it there": (
        "该表单属于已结束的会话：请重新加载页面，再次发送"
    ),
    "at the most {most} workers are fewer than the {least} at the least": "最多 {most} 个工作进程少于最少的 {least} 个",
    "there is no archive {archive} in the model store": "模型仓库中没有归档文件 {archive}",
    "the form has more than {most} bytes (max_request_size)": "表单超过 {most} 字节 (max_request_size)",
    "the answer has more than {most} bytes (max_response_size)": "回答超过 {most} 字节 (max_response_size)",
    # What a server answers most often.
    "Not Found": "没有这个页面",
    "Processing worker updates...": "正在调整工作进程……",
    "Version {version} of {model} is registered.": "模型 {model} 的版本 {version} 已注册。",
    "Version {version} of {model} is unregistered.": "模型 {model} 的版本 {version} 已注销。",
    "Version {version} of {model} is the default now.": "模型 {model} 的默认版本现在是 {version}。",
    "Model version {version} is already registered for model {model}": "模型 {model} 的版本 {version} 已经注册",
    "Cannot remove default version for model {model}": "不能移除模型 {model} 的默认版本",
    "{error} (HTTP {status})": "{error} (HTTP {status})",
    "Prediction failed. The server's log has the reason under the id {error}.": (
        "预测失败。原因在服务器日志中，编号为 {error}。"
    ),
    "the server failed; its log has the reason, beside {request}": "服务器出错；原因在其日志中，编号为 {request}",
    'Model "{model}" has no worker to serve inference request. Please use scale workers API to add workers. If '
    "this is a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize": (
        "模型“{model}”没有可处理请求的工作进程，请增加工作进程。"
        "若是序列推理，请检查该序列是否已关闭、过期，或超出 maxSequenceJobQueueSize"
    ),
    "Model not found: {model}": "没有该模型：{model}",
    "Model version: {version} does not exist for model: {model}": "模型 {model} 没有版本 {version}",
    # The APIs.
    "Ask {model}.": "请求 {model}。",
    "The archive does not say what the model takes.": "归档文件没有说明模型的输入。",
    "What the model answered.": "模型的回答。",
    "Refused or failed": "被拒绝或失败",
    "This document.": "本文档。",
    "Each model says what it takes.": "由各模型说明其输入。",
    "Names the request; it is echoed.": "请求的编号；回答中会带回。",
    "Who comes first of those that wait.": "等待的请求中谁优先。",
    "What has not begun by then gets 504, or the model's default answer.": (
        "到时仍未开始的请求得到 504，或模型的默认回答。"
    ),
    "Inputs: {tensors}": "输入：{tensors}",
    "Outputs: {tensors}": "输出：{tensors}",
    "sample {number}": "样例 {number}",
    "{number} bytes": "{number} 字节",
    "{number} bytes, in base64": "{number} 字节，以 base64 表示",
    "Asks the default version of a model.": "请求模型的默认版本。",
    "Asks a version of a model.": "请求模型的某个版本。",
    "Asks for an explanation.": "请求解释。",
    "Asks a version for an explanation.": "请求某个版本的解释。",
    "Whether every model has the workers that it wants.": "每个模型是否都有所需的工作进程。",
    "Whether the server runs.": "服务器是否在运行。",
    "Whether every model has a ready worker and requests are taken.": "每个模型是否都有就绪的工作进程，且接受请求。",
    "May be a field of a form, too.": "也可以是表单的一个字段。",
    "About the server.": "服务器信息。",
    "About a model.": "模型信息。",
    "Whether models can be asked.": "模型是否可以接受请求。",
    "Whether a model can be asked.": "某个模型是否可以接受请求。",
    "The models, by OpenAI's keys and by KServe's.": "模型列表，含 OpenAI 与 KServe 的字段。",
    "A model, once it can be asked.": "可以接受请求的某个模型。",
    "The next message of a chat, as OpenAI's API has it.": "对话的下一条消息，与 OpenAI 的接口相同。",
    "What follows texts, as OpenAI's API has it.": "文本的后续内容，与 OpenAI 的接口相同。",
    "Vectors of texts, as OpenAI's API has them.": "文本的向量，与 OpenAI 的接口相同。",
    "Makes a new key, which is in the key file then; needs the API key.": "生成新的密钥并写入密钥文件；需要 API 密钥。",
    "The API that the key is for.": "密钥所用于的接口。",
    "A sample that is wanted; may be repeated. Without it all are given.": "所需的指标，可重复；省略时给出全部。",
    "The metrics, in Prometheus' text format.": "指标，采用 Prometheus 文本格式。",
    "Sends requests that name no version to this one.": "未指定版本的请求发送到该版本。",
    "Gives a version a share of the requests that name none, or copies of them.": (
        "将未指定版本的请求按比例分给该版本，或给它这些请求的副本。"
    ),
    "Of these requests.": "占这些请求的百分比。",
    "Whether it gets copies, whose answers nobody sees.": "是否只接收副本，其回答不返回给任何人。",
    "Headers, with commas between: the same value of the first that a request has, the same version.": (
        "以逗号分隔的请求头：取请求所带的第一个，值相同则版本相同。"
    ),
    "The models, by their names.": "按名称排列的模型。",
    "How many.": "数量。",
    "nextPageToken of the page before.": "上一页的 nextPageToken。",
    "Takes a model; the parameters may be the members of a JSON body, too.": "注册模型；参数也可以放在 JSON 请求体中。",
    "Archive of the model store, or a URL that allowed_urls matches.": (
        "模型仓库中的归档文件，或 allowed_urls 允许的 URL。"
    ),
    "In place of the manifest's.": "代替清单中的值。",
    "Most requests of a batch.": "每批最多请求数。",
    "Milliseconds that a batch is held open.": "每批等待凑齐的毫秒数。",
    "Workers to start.": "要启动的工作进程数。",
    "Seconds that a worker may take for a batch.": "工作进程处理一批最多可用的秒数。",
    "Seconds that a worker may take to load the model.": "工作进程加载模型最多可用的秒数。",
    "Whether the workers are waited for.": "是否等待工作进程就绪。",
    "Whether S3 has the archive encrypted by KMS.": "S3 中的归档文件是否由 KMS 加密。",
    "Describes a version of a model; the version may be all.": "描述模型的某个版本；版本可以是 all。",
    "Whether the handler is asked what it says of the model.": "是否由处理程序补充对模型的描述。",
    "Gives a version of a model as many workers.": "设置模型某个版本的工作进程数。",
    "Workers at the least.": "最少工作进程数。",
    "Workers at the most; as many as at the least.": "最多工作进程数；默认与最少相同。",
    "Ends the workers of a version of a model and forgets it.": "停止模型某个版本的工作进程并移除该版本。",
}


#: Characters of what is looked up. Models say much longer texts, too, and forms would take long to find that none fits.
_LONGEST: Final = 400


@lru_cache(maxsize=2048)
def said(language: str, text: str) -> str | None:
    """Say a text in a language; None where nothing is known of it, which is then in English."""
    if language == "en" or text in ("", "p90", "p99"):
        return text
    if len(text) > _LONGEST:
        return None
    for form, chinese in _forms():
        if found := form.fullmatch(text):
            values = {name: _said_in(language, value) for name, value in found.groupdict().items()}
            return chinese.format(**values)
    return None


def _said_in(language: str, value: str) -> str:
    """Say what stands in a text: one thing, or several with commas between."""
    many = [said(language, one) for one in value.split(", ")]
    return said(language, value) or (value if None in many else "、".join(filter(None, many)))


@cache
def _forms() -> list[tuple[re.Pattern[str], str]]:
    def pattern(form: str) -> str:
        named = re.sub(r"\\{number\\}", r"(?P<number>[0-9.,e+]+)", re.escape(form))
        return re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", named)

    return [(re.compile(pattern(form)), chinese) for form, chinese in _CHINESE.items()]
