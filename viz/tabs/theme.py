"""How the app looks: one calm theme, dark and light, with fonts that come with Gradio and nothing from other hosts."""

from pathlib import Path

from gradio import themes

_STATIC = Path(__file__).parents[1] / "static"
CSS = tuple(_STATIC / name for name in ("app.css", "maps.css", "beside.css"))

_WEIGHTS = (400, 700)  # Gradio's 600 has only some of the letters

_TEAL = themes.Color(  # around the middle of viridis, the maps' own colours
    c50="#effaf8", c100="#d6f2ed", c200="#aee4dc", c300="#7accc4", c400="#47aea8",
    c500="#21918c", c600="#1a7672", c700="#185f5c", c800="#174c4a", c900="#163f3e", c950="#072423",
)  # fmt: skip
_STONE = themes.Color(
    c50="#f8f9f8", c100="#f0f2f1", c200="#e2e6e4", c300="#cbd1ce", c400="#97a09c",
    c500="#6a746f", c600="#4d5652", c700="#363e3b", c800="#212826", c900="#171d1b", c950="#0f1413",
)  # fmt: skip

COLORS = {  # by light and by dark
    "body_background_fill": ("*neutral_50", "*neutral_950"),
    "background_fill_primary": ("white", "*neutral_900"),
    "background_fill_secondary": ("*neutral_100", "*neutral_800"),
    "border_color_primary": ("*neutral_200", "*neutral_800"),
    "block_background_fill": ("white", "*neutral_900"),
    "block_border_color": ("*neutral_200", "*neutral_800"),
    "block_label_background_fill": ("*neutral_100", "*neutral_800"),
    "block_label_text_color": ("*neutral_600", "*neutral_300"),
    "block_title_text_color": ("*neutral_700", "*neutral_200"),
    "body_text_color": ("*neutral_900", "*neutral_100"),
    "body_text_color_subdued": ("*neutral_500", "*neutral_400"),
    "block_info_text_color": ("*neutral_500", "*neutral_400"),
    "input_background_fill": ("*neutral_50", "*neutral_950"),
    "checkbox_label_background_fill": ("*neutral_50", "*neutral_950"),
    "checkbox_label_background_fill_selected": ("*primary_50", "*primary_950"),
    "button_primary_background_fill": ("*primary_600", "*primary_600"),
    "button_primary_background_fill_hover": ("*primary_700", "*primary_700"),
    "button_primary_text_color": ("white", "white"),
    "button_secondary_background_fill": ("white", "*neutral_800"),
    "button_secondary_border_color": ("*neutral_300", "*neutral_700"),
    "slider_color": ("*primary_500", "*primary_500"),
}


def theme() -> themes.Base:
    return themes.Base(
        primary_hue=_TEAL,
        secondary_hue=_TEAL,
        neutral_hue=_STONE,
        radius_size=themes.sizes.radius_md,
        font=[themes.LocalFont("IBM Plex Sans", _WEIGHTS), "system-ui", "sans-serif"],
        font_mono=[themes.LocalFont("IBM Plex Mono", _WEIGHTS), "ui-monospace", "monospace"],
    ).set(
        block_border_width="1px",
        block_shadow="none",
        block_title_text_weight="600",
        link_text_color_dark="*primary_300",
        button_border_width="1px",
        **{name: light for name, (light, _) in COLORS.items()},
        **{f"{name}_dark": dark for name, (_, dark) in COLORS.items()},
    )
