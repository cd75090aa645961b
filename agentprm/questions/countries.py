"""Countries under their names and by what their people and things are called: "Danish" is Denmark's."""

from __future__ import annotations

from functools import cache

from agentprm.text import fold, words

__all__ = ["countries"]

# A country a line: its name, then other names and adjectives. Part of a name that stands for another
# country elsewhere ("Guinea" in "Papua New Guinea") is no matter: the longest name counts.
_TABLE = """
Afghanistan, Afghan, Afghani
Albania, Albanian
Algeria, Algerian
Andorra, Andorran
Angola, Angolan
Argentina, Argentine, Argentinian, Argentinean
Armenia, Armenian
Australia, Australian
Austria, Austrian, Austria-Hungary, Austro-Hungarian
Azerbaijan, Azerbaijani, Azeri
Bahamas, Bahamian
Bahrain, Bahraini
Bangladesh, Bangladeshi
Barbados, Barbadian
Belarus, Belarusian, Byelorussian
Belgium, Belgian
Belize, Belizean
Benin, Beninese
Bhutan, Bhutanese
Bolivia, Bolivian
Bosnia and Herzegovina, Bosnia, Bosnian
Botswana, Motswana
Brazil, Brazilian
Brunei, Bruneian
Bulgaria, Bulgarian
Burkina Faso, Burkinabe
Burundi, Burundian
Cambodia, Cambodian
Cameroon, Cameroonian
Canada, Canadian
Cape Verde, Cape Verdean
Central African Republic
Chad, Chadian
Chile, Chilean
China, Chinese, People's Republic of China, PRC
Colombia, Colombian
Comoros, Comorian
Costa Rica, Costa Rican
Croatia, Croatian, Croat
Cuba, Cuban
Cyprus, Cypriot
Czech Republic, Czechia, Czech
Czechoslovakia, Czechoslovak, Czechoslovakian
Democratic Republic of the Congo, DR Congo, Zaire
Denmark, Danish, Dane
Djibouti, Djiboutian
Dominican Republic, Dominican
East Germany, East German
East Timor, Timor-Leste, Timorese
Ecuador, Ecuadorian
Egypt, Egyptian
El Salvador, Salvadoran
Equatorial Guinea
Eritrea, Eritrean
Estonia, Estonian
Eswatini, Swaziland, Swazi
Ethiopia, Ethiopian
Fiji, Fijian
Finland, Finnish, Finn
France, French, Frenchman, Frenchwoman
Gabon, Gabonese
Gambia, Gambian
Georgia, Georgian
Germany, German, West Germany, West German
Ghana, Ghanaian
Greece, Greek
Grenada, Grenadian
Guatemala, Guatemalan
Guinea, Guinean
Guinea-Bissau
Guyana, Guyanese
Haiti, Haitian
Honduras, Honduran
Hong Kong, Hongkonger
Hungary, Hungarian
Iceland, Icelandic, Icelander
India, Indian
Indonesia, Indonesian
Iran, Iranian, Persia, Persian
Iraq, Iraqi
Ireland, Irish, Republic of Ireland
Israel, Israeli
Italy, Italian
Ivory Coast, Ivorian, Côte d'Ivoire
Jamaica, Jamaican
Japan, Japanese, Empire of Japan
Jordan, Jordanian
Kazakhstan, Kazakh, Kazakhstani
Kenya, Kenyan
Kosovo, Kosovar
Kuwait, Kuwaiti
Kyrgyzstan, Kyrgyz
Laos, Laotian, Lao
Latvia, Latvian
Lebanon, Lebanese
Lesotho, Basotho
Liberia, Liberian
Libya, Libyan
Liechtenstein, Liechtensteiner
Lithuania, Lithuanian
Luxembourg, Luxembourgish, Luxembourger
Madagascar, Malagasy
Malawi, Malawian
Malaysia, Malaysian
Maldives, Maldivian
Mali, Malian
Malta, Maltese
Mauritania, Mauritanian
Mauritius, Mauritian
Mexico, Mexican
Moldova, Moldovan
Monaco, Monegasque
Mongolia, Mongolian
Montenegro, Montenegrin
Morocco, Moroccan
Mozambique, Mozambican
Myanmar, Burma, Burmese
Namibia, Namibian
Nepal, Nepalese, Nepali
Netherlands, Dutch, Holland, Dutchman
New Zealand, New Zealander
Nicaragua, Nicaraguan
Niger, Nigerien
Nigeria, Nigerian
North Korea, North Korean
North Macedonia, Macedonia, Macedonian
Norway, Norwegian
Oman, Omani
Pakistan, Pakistani
Palestine, Palestinian
Panama, Panamanian
Papua New Guinea, Papua New Guinean
Paraguay, Paraguayan
Peru, Peruvian
Philippines, Philippine, Filipino, Filipina
Poland, Polish, Pole
Portugal, Portuguese
Prussia, Prussian
Puerto Rico, Puerto Rican
Qatar, Qatari
Republic of the Congo, Congo, Congolese
Romania, Romanian, Rumanian
Russia, Russian, Russian Empire, Russian Federation
Rwanda, Rwandan
Samoa, Samoan
San Marino, Sammarinese
Saudi Arabia, Saudi, Saudi Arabian
Senegal, Senegalese
Serbia, Serbian, Serb
Seychelles, Seychellois
Sierra Leone, Sierra Leonean
Singapore, Singaporean
Slovakia, Slovak, Slovakian
Slovenia, Slovene, Slovenian
Somalia, Somali
South Africa, South African
South Korea, South Korean, Korea, Korean, Republic of Korea
South Sudan, South Sudanese
Soviet Union, Soviet, USSR
Spain, Spanish, Spaniard
Sri Lanka, Sri Lankan, Ceylon
Sudan, Sudanese
Suriname, Surinamese
Sweden, Swedish, Swede
Switzerland, Swiss
Syria, Syrian
Taiwan, Taiwanese, Republic of China
Tajikistan, Tajik
Tanzania, Tanzanian
Thailand, Thai
Togo, Togolese
Tonga, Tongan
Trinidad and Tobago, Trinidadian
Tunisia, Tunisian
Turkey, Turkish, Turk, Ottoman Empire, Ottoman
Turkmenistan, Turkmen
Uganda, Ugandan
Ukraine, Ukrainian
United Arab Emirates, Emirati, UAE
United Kingdom, British, Britain, Great Britain, UK, U.K., England, English, Englishman, Scotland, Scottish, Scot, Wales, Welsh, Northern Ireland, Northern Irish
United States, American, U.S., US, USA, U.S.A., United States of America, America
Uruguay, Uruguayan
Uzbekistan, Uzbek
Vatican City, Vatican
Venezuela, Venezuelan
Vietnam, Vietnamese
Yemen, Yemeni
Yugoslavia, Yugoslav, Yugoslavian
Zambia, Zambian
Zimbabwe, Zimbabwean, Rhodesia
"""  # noqa: E501
# Places are often given by their state alone; Georgia is a country as well.
_STATES = """
Alabama, Alaska, Arizona, Arkansas, California, Colorado, Connecticut, Delaware, Florida, Hawaii, Idaho,
Illinois, Indiana, Iowa, Kansas, Kentucky, Louisiana, Maine, Maryland, Massachusetts, Michigan, Minnesota,
Mississippi, Missouri, Montana, Nebraska, Nevada, New Hampshire, New Jersey, New Mexico, New York,
North Carolina, North Dakota, Ohio, Oklahoma, Oregon, Pennsylvania, Rhode Island, South Carolina,
South Dakota, Tennessee, Texas, Utah, Vermont, Virginia, Washington, West Virginia, Wisconsin, Wyoming
"""
_CAPITALS = frozenset(("us", "uk", "prc", "uae", "usa"))  # of which "us" is a word as well


@cache
def _names(states: bool) -> tuple[dict[tuple[str, ...], str], int]:
    table: dict[tuple[str, ...], str] = {}
    listed = ", ".join(state.strip() for state in _STATES.split(","))
    for line in [*_TABLE.strip().splitlines(), *([f"United States, {listed}"] if states else [])]:
        country, *others = line.split(", ")
        for name in (country, *others):
            table[_key(name)] = country
    return table, max(map(len, table))


def _key(text: str) -> tuple[str, ...]:
    return tuple(word.text.casefold() for word in words(fold(text)))


def countries(text: str, *, states: bool = True) -> frozenset[str]:
    """The countries that a text names, itself or by an adjective; each by its usual name.

    Nations of the United Kingdom count as it, and states that are no more as themselves, except that the
    Russian and the Ottoman Empire, West Germany and Austria-Hungary count as what most of them became.

    Args:
        text: A text.
        states: Whether a state of the United States names them.

    Example:
        >>> sorted(countries("a Danish-American film director"))
        ['Denmark', 'United States']
    """
    table, longest = _names(states)
    written = [word.text for word in words(fold(text))]
    small = [word.casefold() for word in written]
    found: set[str] = set()
    place = 0
    while place < len(small):
        for count in range(min(longest, len(small) - place), 0, -1):
            key = tuple(small[place : place + count])
            capital = written[place][:1].isupper() and (key[0] not in _CAPITALS or written[place].isupper())
            if key in table and capital:
                found.add(table[key])
                place += count - 1
                break
        place += 1
    return frozenset(found)
